"""Reading the text of a compiled program (XLA's HLO).

    module = parse(compiled.as_text())
    for step in walk(module): ...

The format is that of `xla/hlo/parser`; only what a count of costs needs is read.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_DEFINITION = re.compile(r"\s+(ROOT )?%([\w.\-]+) = ")
_HEADER = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{$")
_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"(?:calls|body|to_apply|branch_computations|true_computation|false_computation)="
    r"(?:%([\w.\-]+)|\{([^}]*)\})"
)


class Array(NamedTuple):
    """An array of a program.

    Attributes:
        dtype: the element type, such as `bf16`.
        sides: the shape.
        in_memory: whether it is in HBM; False if the compiler keeps it on the chip
            (memory space 1 and up: the VMEM of a TPU).
    """

    dtype: str
    sides: tuple[int, ...]
    in_memory: bool

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return math.prod(self.sides) * bits(self.dtype) // 8


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
        name, op: such as `fusion.3` and `fusion`.
        arrays: the result; more than one array if it is a tuple.
        operands: names of the instructions whose results it takes.
        called: names of the computations that it runs, such as the body of a loop.
        text: the line after the instruction's name.
        is_root: whether its result is that of the computation.
    """

    name: str
    op: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    called: tuple[str, ...]
    text: str
    is_root: bool

    def attribute(self, pattern: str) -> str:
        """The first group of a pattern in its text, "" without a match."""
        match = re.search(pattern, self.text)
        return match[1] if match else ""


Computation = dict[str, Instruction]


class Module(NamedTuple):
    """Computations by name, and the name of the one that the program starts with."""

    computations: dict[str, Computation]
    entry: str


class Step(NamedTuple):
    """An instruction that a run of the program executes.

    Attributes:
        instruction, computation: the instruction, and the computation that holds it.
        times: number of executions in one run of the program.
        fused: whether it is inside of a fusion, whose inner results stay on the chip.
        within: name of the computation.
    """

    instruction: Instruction
    computation: Computation
    times: int
    fused: bool
    within: str


def bits(dtype: str) -> int:
    """Width of an element; 0 for tokens and other opaque types."""
    if dtype == "pred":
        return 8
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 0


def parse(text: str) -> Module:
    """Reads the text of a compiled program.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif current is not None and (match := _DEFINITION.match(line)):
            instruction = _instruction(match[2], line[match.end() :], bool(match[1]))
            current[match[2]] = instruction
    if not entry:
        raise ValueError("the text is not that of a compiled program: it has no ENTRY")
    return Module(computations, entry)


def _instruction(name: str, text: str, is_root: bool) -> Instruction:
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    opening = text.index("(", end)
    closing = _closing(text, opening)
    called = [
        computation
        for single, several in _CALLED.findall(text[closing:])
        for computation in ([single] if single else _NAME.findall(several))
    ]
    return Instruction(
        name,
        text[end:opening].strip(),
        arrays(text[:end]),
        tuple(_NAME.findall(text[opening:closing])),
        tuple(called),
        text,
        is_root,
    )


def _closing(text: str, opening: int) -> int:
    """The index after the parenthesis that closes the one at `opening`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.end()
    raise ValueError(f"unbalanced parentheses in {text[:80]!r}")


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a printed shape, nested tuples flattened."""
    result = []
    for dtype, sides, layout in _ARRAY.findall(text):
        numbers = tuple(int(side.strip("<=")) for side in sides.split(",") if side)
        space = re.search(r"S\((\d+)\)", layout)
        result.append(Array(dtype, numbers, space is None or space[1] == "0"))
    return tuple(result)


def walk(module: Module, *, loops: bool = True) -> Iterator[Step]:
    """All instructions that a run of the program executes, with their counts.

    Every branch of a conditional counts as executed. The scalar functions that
    reductions and sorts apply are left out, as are the conditions of loops.

    Args:
        loops: False counts the body of each loop once, as XLA's cost analysis does.
    """

    def visit(name: str, times: int, fused: bool) -> Iterator[Step]:
        computation = module.computations[name]
        for instruction in computation.values():
            yield Step(instruction, computation, times, fused, name)
            if instruction.op not in _RUNS:
                continue
            count = trip_count(module, instruction) or 1
            inner = times * (count if loops else 1)
            for called in instruction.called:
                yield from visit(called, inner, fused or instruction.op in FUSIONS)

    yield from visit(module.entry, 1, False)


# On GPUs, a `fusion-start` runs beside other kernels until `fusion-done`.
FUSIONS = ("fusion", "fusion-start")
# The instructions that run another computation as part of the program.
_RUNS = {"while", "call", "conditional", "async-start", *FUSIONS}


def trip_count(module: Module, instruction: Instruction) -> int | None:
    """The number of rounds of a loop; None if the text does not contain it.

    It is 1 for all other instructions. On CPU and GPU the number is printed;
    on TPU the condition compares a counter, which starts at 0, with a constant.
    """
    if instruction.op != "while":
        return 1
    if known := instruction.attribute(r'known_trip_count":\{"n":"(\d+)"'):
        return int(known)
    condition = module.computations[instruction.attribute(r"condition=%([\w.\-]+)")]
    comparison = next((i for i in condition.values() if i.is_root), None)
    if comparison is None or "direction=LT" not in comparison.text:
        return None
    counter, limit = (condition.get(name) for name in comparison.operands)
    number = limit.attribute(r"constant\((\d+)\)") if limit else ""
    place = counter.attribute(r"index=(\d+)") if counter else ""
    if not number or not place:
        return None
    body = module.computations[instruction.called[0]]
    return -(-int(number) // _increment(body, int(place)))


def _increment(body: Computation, place: int) -> int:
    """The increment of a loop's counter: 2 where XLA unrolls two rounds into one."""
    root = next(i for i in body.values() if i.is_root)
    after = body[root.operands[place]]
    if after.op != "add":
        return 1
    constants = [body[name].attribute(r"constant\((\d+)\)") for name in after.operands]
    return next((int(number) for number in constants if number), 1)

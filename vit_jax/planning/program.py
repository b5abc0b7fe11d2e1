"""The costs of a compiled program: arithmetic, bytes, communication of one device.

XLA's own cost analysis counts the body of a loop once, as if a scanned model had one
layer. Here the text of the program is read, and everything counts as often as it runs.
"""

from collections import Counter
from typing import Any, NamedTuple

from vit_jax.planning.collectives import Collective, collectives
from vit_jax.planning.hlo import (
    FUSIONS,
    Array,
    Computation,
    Instruction,
    Module,
    Step,
    parse,
    trip_count,
    walk,
)
from vit_jax.planning.products import call_target, product_flops

# Instructions that move no bytes: they name, group or await results of others.
_MOVES_NOTHING = frozenset(
    "after-all async-done async-start async-update bitcast call conditional constant "
    "get-tuple-element iota opt-barrier parameter partition-id replica-id tuple "
    "while".split()
)


class Costs(NamedTuple):
    """Costs of one run of a program on one device.

    Attributes:
        flops: all arithmetic, recomputation included; on GPUs only products and
            convolutions, since XLA does not count there.
        bytes_accessed: operands and results of all instructions (a fusion is one), as
            XLA defines it: memory on the chip counts like HBM.
        hbm_bytes: the part of these bytes that is in HBM, caches not considered.
        collectives: the largest first.
        unknown_loops: number of loops that are counted once, because their number of
            rounds is not in the program.
        kernels: number of launches by `kernel_kind`.
        uncounted: kinds of kernels whose arithmetic is not known and not in `flops`.
    """

    flops: float
    bytes_accessed: float
    hbm_bytes: float
    collectives: list[Collective]
    unknown_loops: int
    kernels: dict[str, int]
    uncounted: list[str]


def analyze(compiled: Any, mesh: Any) -> Costs:
    """Counts the costs of a program.

    XLA's totals, which count a loop once, are corrected by our own count: the FLOPs of
    products in further rounds are added, and bytes are scaled by the ratio of our
    counts. For GPUs of another machine XLA has no totals, and never FLOPs of library
    calls: all is our count.

    Args:
        compiled: the result of `jax.jit(...).lower(...).compile()`.
        mesh: the `jax.sharding.Mesh` that it was compiled for.
    """
    module = parse(compiled.as_text())
    once, totals = _totals(module, loops=False), _totals(module, loops=True)
    flops, bytes_accessed, hbm = totals["flops"], totals["bytes"], totals["hbm"]
    if mesh.devices.flat[0].platform == "gpu":
        # On GPUs all memory spaces, such as that of collectives, are in HBM.
        hbm = bytes_accessed
    else:
        xla = compiled.cost_analysis()
        flops += xla["flops"] - once["flops"]
        bytes_accessed *= xla["bytes accessed"] / once["bytes"]
    steps = list(walk(module))
    kernels: Counter[str] = Counter()
    for step in steps:
        if kind := kernel_kind(step):
            kernels[kind] += step.times
    return Costs(
        flops,
        bytes_accessed,
        hbm,
        collectives(module, mesh),
        sum(trip_count(module, step.instruction) is None for step in steps),
        dict(kernels.most_common()),
        sorted({kernel_kind(s) for s in steps if product_flops(s) is None}),
    )


def kernel_kind(step: Step) -> str:
    """The kind of kernel that an instruction starts, "" for all other instructions.

    It is the target of a custom call, such as `__cudnn$fmhaSoftmax`, or the backend of
    a fusion, such as `__triton_nested_gemm_fusion` on GPUs; else `fusion`.
    """
    instruction = step.instruction
    if instruction.op == "custom-call":
        return call_target(instruction)
    if instruction.op in FUSIONS and not step.fused:
        return instruction.attribute(r'"kind":"([^"]*)"') or "fusion"
    return ""


def starts_kernel(step: Step) -> bool:
    """Whether an instruction is launched on a GPU: a kernel, a library or a copy."""
    op = step.instruction.op
    return not (step.fused or op in _MOVES_NOTHING or op.endswith("-done"))


def _totals(module: Module, *, loops: bool) -> dict[str, float]:
    totals = {"flops": 0.0, "bytes": 0.0, "hbm": 0.0}
    for step in walk(module, loops=loops):
        totals["flops"] += step.times * (product_flops(step) or 0)
        if not step.fused and step.instruction.op not in _MOVES_NOTHING:
            for array in moved(step, module):
                totals["bytes"] += step.times * array.size
                totals["hbm"] += step.times * array.size * array.in_memory
    return totals


def moved(step: Step, module: Module) -> list[Array]:
    """The arrays that an instruction reads and writes."""
    instruction = step.instruction
    if instruction.op.endswith("-done"):
        return []
    operands = [step.computation[name] for name in instruction.operands]
    read = [array for operand in operands for array in operand.arrays]
    if instruction.op in FUSIONS:
        return _moved_by_fusion(instruction, operands, module)
    if instruction.op in ("dynamic-slice", "slice", "gather"):
        read = [a._replace(in_memory=read[0].in_memory) for a in instruction.arrays]
    elif instruction.op == "dynamic-update-slice":
        update = operands[1].arrays[0]
        return [update, update._replace(in_memory=instruction.arrays[0].in_memory)]
    elif instruction.op in ("copy-start", "slice-start"):
        # The result holds the copy, the original and a semaphore, in no fixed order.
        spaces = {array.in_memory for array in instruction.arrays[:2]}
        smaller = min(instruction.arrays[:2], key=lambda array: array.size)
        both = spaces if len(spaces) == 2 else [*spaces, *spaces]
        return [smaller._replace(in_memory=space) for space in both]
    elif instruction.op.endswith("-start"):
        # On GPUs the result is operands and results, on TPUs the latter may be missing.
        written = instruction.arrays[len(read) :]
        return [*read, *(written or read)]
    written = instruction.arrays
    if instruction.op == "custom-call":
        written = tuple(array for array in written if not is_scratch(array))
    return [*read, *written]


def is_scratch(array: Array) -> bool:
    """Whether a result of a library is its scratch space.

    XLA reserves the most that any algorithm could want, 4 MiB a product of cuBLAS; most
    use none of it.
    """
    return array.dtype in ("s8", "u8") and len(array.sides) == 1


def _moved_by_fusion(
    instruction: Instruction, operands: list[Instruction], module: Module
) -> list[Array]:
    """The operands and results of a fusion, or the parts that it slices or updates.

    A loop over layers keeps all their parameters in one array, and reads slices of it.
    """
    inner = module.computations[instruction.called[0]]
    arrays = []
    for number, parameter in parameters(inner).items():
        whole = operands[number].arrays
        parts = parts_read(parameter, inner, module)
        space = whole[0].in_memory if whole else True
        arrays += (
            whole if parts is None else [p._replace(in_memory=space) for p in parts]
        )
    root = next(i for i in inner.values() if i.is_root)
    roots = [inner[n] for n in root.operands] if root.op == "tuple" else [root]
    results = instruction.arrays
    if instruction.op == "fusion-start":
        # The result is a tuple of operands, results and a context.
        results = results[sum(len(operand.arrays) for operand in operands) :]
    for result, root in zip(results, roots, strict=False):
        update = _update(root, inner)
        arrays.append(update._replace(in_memory=result.in_memory) if update else result)
    return arrays


def parameters(computation: Computation) -> dict[int, str]:
    """The names of the parameters of a computation by their number."""
    return {
        int(i.attribute(r"parameter\((\d+)\)")): name
        for name, i in computation.items()
        if i.op == "parameter"
    }


def parts_read(
    name: str, computation: Computation, module: Module
) -> list[Array] | None:
    """The parts of an array that a computation reads; None for the whole array."""
    parts = []
    if computation[name].is_root:
        return None
    for user in computation.values():
        if name not in user.operands:
            continue
        if user.op in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
            read = [user.arrays[0]]
        elif user.op == "dynamic-update-slice" and user.operands[0] == name:
            # It is written to in place, see `_update`, unless more is made of it.
            read = [] if _is_result(user, computation) else None
        elif user.op == "bitcast":
            read = parts_read(user.name, computation, module)
        elif user.op == "fusion":
            inner = module.computations[user.called[0]]
            parameter = parameters(inner)[user.operands.index(name)]
            root = next(i for i in inner.values() if i.is_root)
            if _behind_bitcasts(root, inner).name == parameter:
                # It is passed on as it is.
                read = parts_read(user.name, computation, module)
            else:
                read = parts_read(parameter, inner, module)
        else:
            read = None
        if read is None:
            return None
        parts += read
    return parts


def _is_result(instruction: Instruction, inner: Computation) -> bool:
    """Whether a computation only returns what an instruction makes."""
    if instruction.is_root:
        return True
    users = [user for user in inner.values() if instruction.name in user.operands]
    return all(
        user.op in ("bitcast", "tuple") and _is_result(user, inner) for user in users
    )


def _update(root: Instruction, inner: Computation) -> Array | None:
    """The part of a result that is written, if it is updated in place; else None."""
    root = _behind_bitcasts(root, inner)
    if root.op != "dynamic-update-slice":
        return None
    # If the fusion computes the updated array too, it is written as a whole.
    updated = _behind_bitcasts(inner[root.operands[0]], inner)
    return inner[root.operands[1]].arrays[0] if updated.op == "parameter" else None


def _behind_bitcasts(instruction: Instruction, inner: Computation) -> Instruction:
    while instruction.op == "bitcast":
        instruction = inner[instruction.operands[0]]
    return instruction

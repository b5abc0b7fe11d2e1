"""What a compiled program costs a device: arithmetic, bytes, communication.

XLA's own cost analysis counts the body of a loop once, so that a scanned model seems
to cost one layer. Here its text is read and everything counts as often as it runs.
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

# Instructions that move nothing: they name, group or await what others have moved.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("while", "call", "conditional", "async-start", "async-update", "async-done"),
    *("partition-id", "replica-id", "opt-barrier", "iota"),
}


class Costs(NamedTuple):
    """Costs of one run of a program on one device.

    Attributes:
        flops: of all that it computes, recomputation included; on GPUs of the products
            and convolutions alone, since XLA does not count there.
        bytes_accessed: operands and results of all instructions (a fusion is one), as
            XLA defines it: memory on the chip counts like HBM.
        hbm_bytes: those of them that are in HBM, caches not considered.
        collectives: the largest first.
        unknown_loops: number of loops that are counted once, because the program does
            not say how often they run.
        kernels: how many of each kind run, see `kernel_kind`.
        uncounted: those of them whose arithmetic is not known and not in `flops`.
    """

    flops: float
    bytes_accessed: float
    hbm_bytes: float
    collectives: list[Collective]
    unknown_loops: int
    kernels: dict[str, int]
    uncounted: list[str]


def analyze(compiled: Any, mesh: Any) -> Costs:
    """Counts what a step costs.

    To XLA's totals comes what loops add: the matrix products of their further rounds,
    and bytes in the proportion in which our own count of them grows. On GPUs XLA has no
    totals for cards that are not there, nor FLOPs of library calls: all is our count.

    Args:
        compiled: of `jax.jit(...).lower(...).compile()`.
        mesh: the `jax.sharding.Mesh` that it was compiled for.
    """
    module = parse(compiled.as_text())
    once, all_times = _totals(module, loops=False), _totals(module, loops=True)
    flops, bytes_accessed, hbm = (
        all_times["flops"],
        all_times["bytes"],
        all_times["hbm"],
    )
    if mesh.devices.flat[0].platform == "gpu":
        # Other memory spaces are places in HBM, too, as that of collectives.
        hbm = bytes_accessed
    else:
        found = compiled.cost_analysis()
        flops += found["flops"] - once["flops"]
        bytes_accessed *= found["bytes accessed"] / once["bytes"]
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
    """The kind of kernel that an instruction starts, "" for none of these.

    The target of a custom call, such as `__cudnn$fmhaSoftmax`; of a fusion its backend,
    such as `__triton_nested_gemm_fusion` on GPUs, or `fusion`.
    """
    instruction = step.instruction
    if instruction.op == "custom-call":
        return call_target(instruction)
    if instruction.op in FUSIONS and not step.fused:
        return instruction.attribute(r'"kind":"([^"]*)"') or "fusion"
    return ""


def _totals(module: Module, *, loops: bool) -> dict[str, float]:
    totals = {"flops": 0.0, "bytes": 0.0, "hbm": 0.0}
    for step in walk(module, loops=loops):
        totals["flops"] += step.times * (product_flops(step) or 0)
        if not step.fused and step.instruction.op not in _FREE:
            for array in moved(step, module):
                totals["bytes"] += step.times * array.size
                totals["hbm"] += step.times * array.size * array.in_memory
    return totals


def moved(step: Step, module: Module) -> list[Array]:
    """What an instruction reads and writes."""
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
        # The result is of the copy, the original and a semaphore, in no fixed order.
        spaces = {array.in_memory for array in instruction.arrays[:2]}
        smaller = min(instruction.arrays[:2], key=lambda array: array.size)
        both = spaces if len(spaces) == 2 else [*spaces, *spaces]
        return [smaller._replace(in_memory=space) for space in both]
    elif instruction.op.endswith("-start"):
        # On GPUs the result is operands and results, on TPUs the latter may be missing.
        written = instruction.arrays[len(read) :]
        return [*read, *(written or read)]
    return [*read, *instruction.arrays]


def _moved_by_fusion(
    instruction: Instruction, operands: list[Instruction], module: Module
) -> list[Array]:
    """Operands and results of a fusion; of those that it slices or updates, the part.

    A loop over layers keeps the parameters of all in one array, and reads a slice.
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
        # Its result is a tuple of operands, results and a context.
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
    """What is read of an array in a computation; None if all of it."""
    parts = []
    for user in computation.values():
        if name not in user.operands:
            continue
        if user.op in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
            found = [user.arrays[0]]
        elif user.op == "dynamic-update-slice" and user.operands[0] == name:
            found = []  # It is written to in place; see `_update`.
        elif user.op == "bitcast":
            found = parts_read(user.name, computation, module)
        elif user.op == "fusion":
            inner = module.computations[user.called[0]]
            parameter = parameters(inner)[user.operands.index(name)]
            found = parts_read(parameter, inner, module)
        else:
            found = None
        if found is None:
            return None
        parts += found
    return parts


def _update(root: Instruction, inner: Computation) -> Array | None:
    """What is written of a result, if the rest of it stays as it is."""
    root = _behind_bitcasts(root, inner)
    if root.op != "dynamic-update-slice":
        return None
    # What the fusion itself computes is written as a whole.
    updated = _behind_bitcasts(inner[root.operands[0]], inner)
    return inner[root.operands[1]].arrays[0] if updated.op == "parameter" else None


def _behind_bitcasts(instruction: Instruction, inner: Computation) -> Instruction:
    while instruction.op == "bitcast":
        instruction = inner[instruction.operands[0]]
    return instruction

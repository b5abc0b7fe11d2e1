"""The arithmetic of a compiled program: FLOPs of its products and convolutions.

On NVIDIA GPUs some are calls of libraries, named by `custom_call_target`: cuBLAS, and
cuDNN for convolutions and attention.
"""

import math
import re

import numpy as np

from vit_jax.planning.hlo import Array, Instruction, Step

# Library calls without products. A plan lists all other unknown calls.
_NO_PRODUCTS = {"AllocateBuffer", "TopK", "__cub$DeviceRadixSort"}


def product_flops(step: Step) -> int | None:
    """FLOPs of a matrix product, convolution or library call; 0 for all else.

    None for a library call whose FLOPs are not known.
    """
    instruction = step.instruction
    operands = [
        step.computation[name].arrays
        for name in instruction.operands
        if instruction.op in ("dot", "convolution", "custom-call")
    ]
    if instruction.op == "dot":
        contracted = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
        return _contraction(instruction.arrays[0], operands[0][0], contracted)
    if instruction.op == "convolution":
        result = instruction.arrays[0]
        return _convolution(instruction, operands[0][0], operands[1][0], result)
    if instruction.op == "custom-call":
        return _call(instruction, [arrays[0] for arrays in operands if arrays])
    return 0


def call_target(instruction: Instruction) -> str:
    """The function that a custom call runs, such as `__cublas$gemm`."""
    return instruction.attribute(r'custom_call_target="([^"]*)"')


def _call(instruction: Instruction, operands: list[Array]) -> int | None:
    """FLOPs of a custom call; None if they are not known."""
    target, result = call_target(instruction), instruction.arrays[0]
    if target.startswith(("__cublas$gemm", "__cublas$lt$matmul")):
        numbers = instruction.attribute(r'"lhs_contracting_dimensions":\[([^\]]*)\]')
        return _contraction(result, operands[0], numbers.replace('"', ""))
    # Dimension labels are always those of the forward pass.
    if target == "__cudnn$convBackwardInput":
        return _convolution(instruction, result, operands[1], operands[0])
    if target == "__cudnn$convBackwardFilter":
        return _convolution(instruction, operands[0], result, operands[1])
    if target.startswith("__cudnn$conv"):
        return _convolution(instruction, operands[0], operands[1], result)
    if re.fullmatch(r"__cudnn\$fmha\w*Softmax\w*", target):
        # Backward, the scores are computed again (arXiv 2205.14135, section 3.1).
        products = 5 if target.endswith("Backward") else 2
        (batch, queries, heads, width), keys = operands[0].sides, operands[1].sides[1]
        return 2 * products * batch * heads * queries * keys * width
    return 0 if target in _NO_PRODUCTS else None


def _contraction(result: Array, left: Array, contracted: str) -> int:
    """FLOPs of a matrix product; `contracted` are dimensions of `left` as `1,2`."""
    sides = [left.sides[int(number)] for number in contracted.split(",") if number]
    return 2 * math.prod([*result.sides, *sides])


def _convolution(
    instruction: Instruction, left: Array, right: Array, output: Array
) -> int:
    """FLOPs of the pairs of inputs and kernel elements that are not padding.

    On TPU all matrix products are convolutions; batch dimensions become spatial ones,
    in which padding and dilation leave one element of the kernel to each input.
    """
    labels = instruction.attribute(r"dim_labels=(\w+_\w+->\w+)")
    inputs, kernel, outputs = re.split("_|->", labels)
    window = instruction.attribute(r"window=\{([^}]*)\}")
    pairs = 1
    for i, label in enumerate(sorted(set(inputs) - set("bf"))):
        pairs *= _valid_pairs(
            left.sides[inputs.index(label)],
            right.sides[kernel.index(label)],
            output.sides[outputs.index(label)],
            *_window_dimension(window, i),
        )
    features = right.sides[kernel.index("i")] * right.sides[kernel.index("o")]
    groups = int(instruction.attribute(r"batch_group_count=(\d+)") or 1)
    return 2 * pairs * features * left.sides[inputs.index("b")] // groups


def _window_dimension(window: str, i: int) -> tuple[int, int, int, int]:
    """Stride, padding before, dilation of input and kernel in spatial dimension i."""

    def part(key: str) -> int | None:
        match = re.search(rf"\b{key}=(\S+)", window)
        # Padding is written as before_after.
        return int(match[1].split("x")[i].split("_")[0]) if match else None

    stride, dilation, step = map(part, ("stride", "lhs_dilate", "rhs_dilate"))
    return stride or 1, part("pad") or 0, dilation or 1, step or 1


def _valid_pairs(
    size: int, kernel: int, output: int, stride: int, pad: int, dilation: int, step: int
) -> int:
    """Pairs of output and kernel positions that meet an element of the input."""
    place = np.arange(output)[:, None] * stride + np.arange(kernel) * step - pad
    inside = (place >= 0) & (place < (size - 1) * dilation + 1)
    return int((inside & (place % dilation == 0)).sum())

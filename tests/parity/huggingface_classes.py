"""Every class of transformers that is like a ViT, one block: the same, or refused."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import parity.operators  # noqa: F401
import torch
import transformers
from golden.weights import random_pixels, random_tensor
from safetensors.numpy import load_file, save_file

from vit_jax.interop import load_checkpoint

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SIDE = 32
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
PLAIN = SIZES | {"image_size": SIDE, "patch_size": 8}
VIT = PLAIN | {"intermediate_size": 48}
DINO = PLAIN | {"num_labels": 5}
TEXT = SIZES | {"intermediate_size": 48, "vocab_size": 50, "bos_token_id": 1}
TEXT = TEXT | {"eos_token_id": 2}
BOTH = {"vision_config": VIT, "text_config": TEXT}
HEAD = {"num_labels": 5}
V3 = VIT | {"num_register_tokens": 2}
# Class, its configuration; several of a class where they compute something else.
CLASSES: list[tuple[str, dict[str, Any]]] = [
    ("ViTModel", VIT),
    ("ViTForImageClassification", VIT | HEAD),
    ("ViTForImageClassification", VIT | HEAD | {"qkv_bias": False}),
    ("ViTForMaskedImageModeling", VIT),
    ("DeiTModel", VIT),
    ("DeiTForImageClassification", VIT | HEAD),
    ("DeiTForImageClassificationWithTeacher", VIT | HEAD),
    ("DeiTForMaskedImageModeling", VIT),
    ("Dinov2Model", PLAIN),
    ("Dinov2Backbone", PLAIN),
    ("Dinov2ForImageClassification", DINO),
    ("Dinov2ForImageClassification", DINO | {"use_swiglu_ffn": True}),
    ("Dinov2WithRegistersModel", PLAIN),
    ("Dinov2WithRegistersForImageClassification", DINO),
    ("Dinov2WithRegistersForImageClassification", DINO | {"use_swiglu_ffn": True}),
    ("DINOv3ViTModel", V3),
    ("DINOv3ViTModel", V3 | {"num_register_tokens": 0, "key_bias": True}),
    ("DINOv3ViTModel", V3 | {"use_gated_mlp": True, "hidden_act": "silu"}),
    ("DINOv3ViTModel", V3 | {"use_gated_mlp": True}),
    ("DINOv3ViTModel", V3 | {"query_bias": False, "value_bias": False}),
    ("DINOv3ViTModel", V3 | {"proj_bias": False, "mlp_bias": False}),
    ("DINOv3ViTModel", V3 | {"rope_theta": 10.0}),
    ("DINOv3ViTBackbone", V3),
    ("CLIPVisionModel", VIT),
    ("CLIPVisionModelWithProjection", VIT | {"projection_dim": 5}),
    ("CLIPModel", BOTH | {"projection_dim": 5}),
    ("CLIPForImageClassification", BOTH | HEAD),
    ("SiglipVisionModel", VIT),
    ("SiglipVisionModel", VIT | {"vision_use_head": False}),
    ("SiglipModel", BOTH),
    ("SiglipForImageClassification", BOTH | HEAD),
    ("Siglip2VisionModel", SIZES | {"intermediate_size": 48, "num_patches": 16}),
    ("ViTMAEModel", VIT),
    ("ViTMAEForPreTraining", VIT),
    ("ViTMSNModel", VIT),
    ("ViTMSNForImageClassification", VIT | HEAD),
    ("BeitModel", VIT),
    ("BeitForImageClassification", VIT | HEAD),
    ("Data2VecVisionModel", VIT),
    ("Data2VecVisionForImageClassification", VIT | HEAD),
    ("IJepaModel", VIT),
    ("IJepaForImageClassification", VIT | HEAD),
    ("Aimv2VisionModel", VIT),
    ("YolosModel", VIT | {"image_size": [SIDE, SIDE]}),
    ("VitDetModel", PLAIN),
    ("VitPoseBackbone", PLAIN | {"image_size": [SIDE, SIDE]}),
    ("PixioModel", VIT),
    ("Tipsv2VisionModel", VIT),
    ("MetaClip2VisionModel", VIT),
    ("AltCLIPVisionModel", VIT),
    ("ChineseCLIPVisionModel", VIT),
    ("CLIPSegModel", BOTH),
    ("GroupViTVisionModel", {}),
    ("FlavaImageModel", VIT),
    ("EomtForUniversalSegmentation", PLAIN | {"num_blocks": 1}),
    ("EomtDinov3ForUniversalSegmentation", V3 | {"num_blocks": 1}),
    ("Sapiens2Model", VIT),
    ("LwDetrViTBackbone", PLAIN | {"window_block_indices": [0], "num_windows": 4}),
    ("ViltModel", VIT),
    ("VivitModel", {}),
    ("VideoMAEModel", VIT),
]


def write(kind: str, options: dict[str, Any], folder: Path) -> torch.nn.Module:
    """A model of the class with random weights, in a folder and in memory."""
    model_class = getattr(transformers, kind)
    model_class(model_class.config_class(**options)).save_pretrained(folder)
    path = folder / "model.safetensors"
    shapes = {name: tensor.shape for name, tensor in load_file(path).items()}
    tensors = {
        name: random_tensor(name, shape or (1,)) for name, shape in shapes.items()
    }
    tensors = {name: x.reshape(shapes[name]) for name, x in tensors.items()}
    save_file(tensors, path, {"format": "pt"})
    return model_class.from_pretrained(folder).eval()


@torch.inference_mode()
def output(model: Any, x: torch.Tensor) -> np.ndarray:
    """Logits, or else what the class says about an image as a whole."""
    if hasattr(model, "get_image_features"):
        out = model.get_image_features(pixel_values=x)
        return getattr(out, "pooler_output", out).numpy()
    out = model(pixel_values=x)
    for name in ("logits", "image_embeds", "pooler_output"):
        if out.get(name) is not None:
            return out[name].numpy()
    return out.last_hidden_state[:, 0].numpy()


def difference(kind: str, options: dict[str, Any]) -> float | str:
    """Of the outputs, over the largest; the reason if the checkpoint is refused."""
    with tempfile.TemporaryDirectory() as folder:
        model = write(kind, options, Path(folder))
        try:
            loaded = load_checkpoint(Path(folder), dtype="float32")
        except ValueError as error:
            return str(error)
    pixels = random_pixels(loaded.model.image_size)[:1]
    mean, std = (
        np.float32(getattr(loaded.model, f"pixel_{x}")) for x in ("mean", "std")
    )
    x = torch.from_numpy(((pixels - mean) / std).transpose(0, 3, 1, 2).copy())
    theirs = output(model, x)
    ours = jax.jit(loaded.model.apply, static_argnames="train")(
        {"params": loaded.params}, 2 * pixels - 1, train=False
    )[0]
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def rows(only: str) -> Iterator[tuple[str, str, float]]:
    """Class and options, what became of it, and the difference, 0 if it is refused."""
    for kind, options in CLASSES:
        if only not in kind:
            continue
        found = difference(kind, options)
        refused = isinstance(found, str)
        yield kind, "refused" if refused else "read", 0.0 if refused else found
        jax.clear_caches()

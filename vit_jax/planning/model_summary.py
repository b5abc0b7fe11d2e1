"""A model's layers: parameters, multiply-adds, activations. See `vit_jax.plan`."""

import argparse
import json
from typing import Any

from vit_jax.interop.trained import load_trained
from vit_jax.models import create_model, model_options
from vit_jax.planning.flops import Layer, layers, training_flops
from vit_jax.storage import output
from vit_jax.storage.paths import as_path


def summarize(model: Any, depth: int) -> dict[str, Any]:
    """Totals of a model and its layers, down to `depth` parts of their names."""
    rows = layers(model, depth)
    macs = sum(row.macs for row in rows)
    return {
        **model_options(model),
        "image_size": model.image_size,
        "num_classes": model.num_classes,
        "parameters": sum(row.parameters for row in rows),
        "macs": macs,
        "training_flops": training_flops(macs),
        "activations": sum(row.activations for row in rows),
        "layers": [row._asdict() for row in rows],
    }


def table(rows: list[Layer]) -> str:
    """The layers as text, one on a line."""
    width = max(len(row.name) for row in rows)
    head = f"{'layer':{width}}  {'output':>16}  {'parameters':>13}  {'MACs':>9}"
    lines = [f"{head}  activations"]
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        lines.append(
            f"{row.name:{width}}  {shape:>16}  {row.parameters:>13,}  "
            f"{row.macs / 1e6:>8,.1f}M  {row.activations:>11,}"
        )
    return "\n".join(lines)


def summarize_command(arguments: argparse.Namespace) -> None:
    """`plan --model` or `--checkpoint`: the layers and the totals of one image."""
    depth = 2 if arguments.depth is None else arguments.depth
    if depth < 1:
        raise ValueError(f"--depth is {depth}: wanted at least 1")
    size = arguments.image_size
    if arguments.checkpoint:
        model = load_trained(arguments.checkpoint, image_size=size).model
    else:
        model = create_model(
            arguments.model,
            num_classes=arguments.num_classes or 1000,
            image_size=size or (224, 224),
            dtype="float32",
        )
    plan = summarize(model, depth)
    print(table([Layer(**row) for row in plan["layers"]]))
    height, width = model.image_size
    print(
        f"\n{plan['name']}, {height} x {width} px, {model.num_classes} classes: "
        f"{plan['parameters']:,} parameters\n"
        f"an image forward: {plan['macs'] / 1e9:.3f} GMACs, "
        f"{plan['activations']:,} activations; a training step: "
        f"{plan['training_flops'] / 1e9:.1f} GFLOPs"
    )
    if arguments.json:
        path = as_path(arguments.json)
        output.write(path, json.dumps(plan, indent=1, default=str) + "\n")

"""The model card of a written folder: README.md, with the header that hubs read.

`huggingface_hub.upload_folder` takes the folder as it is.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vit_jax.interop.layout import Facts
from vit_jax.models import AnyModel, VisionTransformer
from vit_jax.storage import output

logger = logging.getLogger(__name__)

NAME = "README.md"
LIBRARIES = {"timm": "timm", "timm_eva": "timm", "huggingface": "transformers"}
SHOWN_CLASSES = 100
TIMM = """\
import timm

model = timm.create_model("local-dir:.", pretrained=True).eval()
data = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**data, is_training=False)
"""
TRANSFORMERS = """\
from transformers import AutoImageProcessor, {loader}

processor = AutoImageProcessor.from_pretrained(".")
model = {loader}.from_pretrained("."{options}).eval()
"""


class Result(NamedTuple):
    """An accuracy in [0, 1] that a run has measured, and on how many images."""

    data: str
    split: str
    accuracy: float
    count: int


class Origin(NamedTuple):
    """What a card says of a model that the model itself does not know.

    Attributes:
        source: the run or the checkpoint that it comes from; "" if unknown.
        changes: what was changed after the training, by name.
        results: measured with exactly these weights; () if they are others.
        config: of the training, None for a checkpoint of another project.
        license: its identifier on the hub, such as "apache-2.0"; "" if unknown.
    """

    source: str = ""
    changes: tuple[str, ...] = ()
    results: tuple[Result, ...] = ()
    config: dict[str, Any] | None = None
    license: str = ""


UNKNOWN = Origin()


def is_wanted(folder: Path, text: str) -> bool:
    """Whether a folder has no card; another one stays, and a warning says so."""
    path = folder / NAME
    if not path.exists():
        return True
    if path.read_bytes() != text.encode("utf-8", "backslashreplace"):
        logger.warning(
            f"{path} was there already and is kept, so that it may describe another "
            "model: delete it and write again for a new model card"
        )
    return False


def card(
    name: str,
    model: AnyModel,
    description: str,
    layout: str,
    facts: Facts,
    lost: Mapping[str, Any],
    origin: Origin,
) -> str:
    """The text of a card.

    Args:
        name: title of the card.
        description: of the model, one line.
        lost: attributes of the model that the layout does not hold.
    """
    height, width = model.image_size
    lines = [
        "---",
        *header(name, model, layout, origin),
        "---",
        "",
        f"# {output.printable(name)}",
        "",
    ]
    lines += [f"{description}.", ""]
    if origin.source:
        changes = ", ".join(origin.changes)
        changed = f"; changed since: {changes}" if changes else ""
        lines += [f"From {output.printable(origin.source)}{changed}.", ""]
    lines += [
        f"Images: {height} x {width} pixels (height x width), RGB in [0, 1], less the "
        f"mean {numbers(model.pixel_mean)}, over the deviation "
        f"{numbers(model.pixel_std)}.",
        "",
        classes_line(model, layout, facts),
        "",
    ]
    lines += [
        f"Accuracy: {100 * x.accuracy:.2f} % of the {x.count:,} images of {x.split} "
        f"({output.printable(x.data)})."
        for x in origin.results
    ]
    lines += [""] * bool(origin.results)
    lines += ["## Use", "", "In the folder of this file:", ""]
    given = ", ".join(f"{key}={value!r}" for key, value in lost.items())
    if given:
        lines += [f"Other code than vit_jax's computes without {given}.", ""]
    for snippet in snippets(model, layout, given):
        lines += ["```python", snippet.rstrip("\n"), "```", ""]
    if origin.config is not None:
        config = json.dumps(origin.config, indent=2)
        lines += ["## Config of the training", "", "```json", config, "```", ""]
    return "\n".join(lines)


def header(name: str, model: AnyModel, layout: str, origin: Origin) -> list[str]:
    """The lines of YAML; what json writes is YAML too, whatever is in a name."""
    classifies = model.num_classes and not is_projection(model, layout)
    task = "image-classification" if classifies else "image-feature-extraction"
    fields: dict[str, Any] = {
        "library_name": LIBRARIES.get(layout, "vit_jax"),
        "pipeline_tag": task,
        "tags": [task, "vit_jax"],
    }
    if origin.license:
        fields["license"] = origin.license
    if origin.results:
        results = [
            {
                "task": {"type": task},
                "dataset": {"type": x.data, "name": x.data, "split": x.split},
                "metrics": [{"type": "accuracy", "value": x.accuracy}],
            }
            for x in origin.results
        ]
        fields["model-index"] = [{"name": name, "results": results}]
    return [f"{key}: {json.dumps(value)}" for key, value in fields.items()]


def classes_line(model: AnyModel, layout: str, facts: Facts) -> str:
    if not model.num_classes:
        return "No head: the outputs are the representation."
    if is_projection(model, layout):
        return f"The outputs are CLIP's projection, {model.num_classes:,} features."
    names = facts.label_names
    if not names:
        return f"Classes: {model.num_classes:,}, without names."
    more = len(names) - SHOWN_CLASSES
    end = f" and {more:,} more" if more > 0 else ""
    shown = ", ".join(output.printable(name) for name in names[:SHOWN_CLASSES])
    return f"Classes, in the order of the outputs: {shown}{end}."


def snippets(model: AnyModel, layout: str, given: str) -> list[str]:
    """Code that loads the model, by every library that can.

    Args:
        given: arguments for what the layout does not hold.
    """
    arguments = f'".", {given}' if given else '"."'
    found = [f"import vit_jax\n\nmodel, params = vit_jax.load({arguments})\n"]
    library = LIBRARIES.get(layout)
    if library == "timm":
        found.append(TIMM)
    elif library == "transformers":
        found.append(TRANSFORMERS.format(**loader(model)))
    return found


def is_projection(model: AnyModel, layout: str) -> bool:
    """Whether the head is CLIP's projection, whose outputs are no classes."""
    return layout == "huggingface" and getattr(model, "embedding_norm", False)


def loader(model: AnyModel) -> dict[str, str]:
    """Which class of transformers loads a ViT, and with what."""
    assert isinstance(model, VisionTransformer)  # the layout has no other
    if model.num_classes and model.embedding_norm:
        return {"loader": "CLIPVisionModelWithProjection", "options": ""}
    if model.num_classes:
        return {"loader": "AutoModelForImageClassification", "options": ""}
    # Its plain ViT would have a new random layer behind the class token.
    other = model.embedding_norm or model.pooling == "map" or model.layer_scale_init
    options = "" if model.pre_logits or other else ", add_pooling_layer=False"
    return {"loader": "AutoModel", "options": options}


def numbers(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{x:g}' for x in values)})"

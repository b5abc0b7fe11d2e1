"""Writes the golden files of torchvision, in the environment of `make parity`:

PYTHONPATH=tests .venv-parity/bin/python -m golden.write_torchvision
"""

import parity.operators  # noqa: F401
import torchvision
from golden.originals import fill, pixel_values, write_golden
from torchvision.models import VisionTransformer

SMALL = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_classes": 5}
# The files do not tell the number of heads; theirs have a width of 64.
SMALL |= {"num_heads": 2, "hidden_dim": 128, "mlp_dim": 20}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

if __name__ == "__main__":
    for name, options in {
        "vit": {},
        "vit_pre_logits": {"representation_size": 128},
    }.items():
        model = fill(VisionTransformer(**SMALL, **options))
        write_golden(
            f"torchvision_{name}",
            f"torchvision {torchvision.__version__}, VisionTransformer",
            {name: tuple(x.shape) for name, x in model.state_dict().items()},
            (32, 32),
            model(pixel_values((32, 32), MEAN, STD)),
        )

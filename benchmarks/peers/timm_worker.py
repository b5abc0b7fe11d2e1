"""Takes steps of a timm model on demand, for `speed_vs_peers` and `make gpu`.

Needs PyTorch and timm only, so it may run in a Python environment of its own. Reads
lines such as `train 10` from stdin and answers with the seconds that the steps took;
`forward` is the model alone.
"""

import json
import sys
import time

NAMES = {
    "ViT-Ti/16": "vit_tiny_patch16_224",
    "ViT-S/16": "vit_small_patch16_224",
    "ViT-B/16": "vit_base_patch16_224",
    "ViT-L/16": "vit_large_patch16_224",
    "ViT-H/14": "vit_huge_patch14_224",
    "R50+ViT-B/16": "vit_base_r50_s16_224",
    "BiT-R50x1": "resnetv2_50x1_bit",
}
INSTALL = """timm cannot be imported here ({error}). Install it, in an environment
of its own if you like, and name that one's Python by --torch-python:
    python -m venv torch-env
    torch-env/bin/pip install torch torchvision timm
On Linux without a GPU, where torchvision may have no build that fits:
    torch-env/bin/pip install torch numpy huggingface_hub safetensors pyyaml pillow
    torch-env/bin/pip install --no-deps timm torchvision"""


def import_torch():
    """Imports torch, and torchvision even where its operators were built for another.

    Without its operators, that one has neither `nms` nor decoders of its own.
    """
    import torch

    # The import fails if torchvision, built for another torch, lacks two operators,
    # which no ViT needs.
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in list(sys.modules):
            if name.split(".")[0] == "torchvision":
                del sys.modules[name]
        torch.library.define(
            "torchvision::nms", "(Tensor d, Tensor s, float t) -> Tensor"
        )
        torch.library.define(
            "torchvision::qnms", "(Tensor d, Tensor s, float t) -> Tensor"
        )
    return torch


def import_timm():
    """Imports torch and timm, also beside a torchvision without its operators."""
    try:
        torch = import_torch()
        import timm
    except ImportError as error:
        sys.exit(INSTALL.format(error=error))
    return torch, timm


def make_model(torch, timm, spec: dict):
    """The model, and a batch in the range of pixels: `(images, labels)`."""
    device = torch.device("cuda" if spec["device"] == "gpu" else "cpu")
    torch.manual_seed(0)
    size, classes = spec["image_size"], spec["num_classes"]
    if name := NAMES.get(spec["model"]):
        sized = {} if spec["model"].startswith("BiT") else {"img_size": size}
        model = timm.create_model(name, num_classes=classes, **sized)
    else:
        sizes = spec["sizes"]
        model = timm.models.VisionTransformer(
            img_size=size,
            patch_size=sizes["patch_size"],
            depth=sizes["depth"],
            embed_dim=sizes["width"],
            num_heads=sizes["num_heads"],
            mlp_ratio=sizes["mlp_dim"] / sizes["width"],
            class_token=sizes["pooling"] == "cls",
            global_pool={"cls": "token", "gap": "avg"}[sizes["pooling"]],
            fc_norm=False,
            num_classes=classes,
        )
    shape = (spec["batch"], 3, size, size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    labels = torch.randint(0, classes, (spec["batch"],), device=device)
    model = model.to(device).train()
    if spec["channels_last"]:
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    return model, (images, labels)


def make_steps(torch, spec: dict, model, images, labels):
    """Closures that take one step: `train`, with the update, and `forward`.

    With `torch.compile` in the mode `compile_mode`, eager if that is empty; autocast
    for bfloat16.
    """
    # The fused update is the fastest one of torch, also on the CPU.
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, weight_decay=0.1, fused=True
    )
    half = spec["dtype"] == "bfloat16"

    def logits():
        x = images.float() / 127.5 - 1.0
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            return model(x)

    def loss():
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            return torch.nn.functional.cross_entropy(logits(), labels)

    scores, mean_loss = logits, loss
    if spec["device"] == "gpu":
        torch.set_float32_matmul_precision("high")  # TF32, as is JAX's default.
    if spec["compile_mode"]:
        scores = torch.compile(logits, mode=spec["compile_mode"])
        mean_loss = torch.compile(loss, mode=spec["compile_mode"])

    def train():
        model.train()
        mean_loss().backward()
        if spec["clip_norm"]:
            torch.nn.utils.clip_grad_norm_(model.parameters(), spec["clip_norm"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def forward():
        model.eval()
        with torch.inference_mode():
            scores()

    return {"train": train, "forward": forward}


def main() -> None:
    """Prints facts of the model, then answers until stdin ends."""
    spec = json.loads(sys.argv[1])
    torch, timm = import_timm()
    if spec["device"] == "gpu" and not torch.cuda.is_available():
        sys.exit("--device gpu, but torch sees no GPU")
    model, batch = make_model(torch, timm, spec)
    steps = make_steps(torch, spec, model, *batch)
    hardware = f"cpu, {torch.get_num_threads()} threads"
    if spec["device"] == "gpu":
        hardware = torch.cuda.get_device_name()
    answer = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "version": f"torch {torch.__version__}, timm {timm.__version__}",
        "hardware": hardware,
    }
    print(json.dumps(answer), flush=True)
    for line in sys.stdin:
        mode, count = line.split()
        start = time.perf_counter()
        for _ in range(int(count)):
            steps[mode]()
        if spec["device"] == "gpu":
            torch.cuda.synchronize()
        print(json.dumps(time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()

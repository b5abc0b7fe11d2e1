"""The numbers of the paper (arXiv 2010.11929 v2), as data.

Accuracies are in percent, as the paper prints them, unless a comment says otherwise.
Numbers of tables and sections are printed in the paper; `SOURCES` says how those of
its figures were read, and how exactly. Where tables of the paper disagree (H/14 in
Tables 2, 5 and 6), each has its own number here.
"""

from typing import Any

SOURCES = {
    "Fig. 2": "read off the figure, within 0.3 points",
    "Fig. 3": "Table 5 (ViT), and read off the figure within 0.3 points (BiT)",
    "Fig. 4": "read off the figure, within 0.3 points",
    "Fig. 5": "Table 6",
    "Fig. 8": "read off the figure, within 0.002",
    "Fig. 9": "read off the figure, within 0.3 points",
    "Fig. 11": "read off the figure, within 1 pixel",
    "Fig. 12": "read off the figure, within 4 %",
    "Fig. 13": "read off the figure, within 0.002",
}

# Layers, width, width of the MLP, heads, millions of parameters.
TABLE_1 = {
    "ViT-Base": (12, 768, 3072, 12, 86),
    "ViT-Large": (24, 1024, 4096, 16, 307),
    "ViT-Huge": (32, 1280, 5120, 16, 632),
}

# Mean and standard deviation of three fine-tunings, where the paper has one.
TABLE_2_ROWS = (
    "ImageNet ReaL CIFAR-10 CIFAR-100 Pets Flowers VTAB TPUv3-core-days".split()
)
# fmt: off
TABLE_2: dict[str, dict[str, tuple[float, float | None]]] = {
    model: dict(zip(TABLE_2_ROWS, zip(*columns, strict=True), strict=True))
    for model, columns in {
        "ViT-H/14 JFT": (
            (88.55, 90.72, 99.50, 94.55, 97.56, 99.68, 77.63, 2500),
            (0.04, 0.05, 0.06, 0.04, 0.03, 0.02, 0.23, None)),
        "ViT-L/16 JFT": (
            (87.76, 90.54, 99.42, 93.90, 97.32, 99.74, 76.28, 680),
            (0.03, 0.03, 0.03, 0.05, 0.11, 0.00, 0.46, None)),
        "ViT-L/16 ImageNet-21k": (
            (85.30, 88.62, 99.15, 93.25, 94.67, 99.61, 72.72, 230),
            (0.02, 0.05, 0.03, 0.05, 0.15, 0.02, 0.21, None)),
        "BiT-L R152x4": (
            (87.54, 90.54, 99.37, 93.51, 96.62, 99.63, 76.29, 9900),
            (0.02, None, 0.06, 0.08, 0.23, 0.03, 1.70, None)),
    }.items()
}
# fmt: on
TABLE_2["Noisy Student EfficientNet-L2"] = {
    "ImageNet": (88.4, None),
    "ReaL": (90.55, None),
    "TPUv3-core-days": (12300, None),
}

# Pre-training set, then test set, then model.
TABLE_5_MODELS = ("ViT-B/16", "ViT-B/32", "ViT-L/16", "ViT-L/32", "ViT-H/14")
_TABLE_5: dict[str, dict[str, tuple[float, ...]]] = {
    "ImageNet": {
        "CIFAR-10": (98.13, 97.77, 97.86, 97.94),
        "CIFAR-100": (87.13, 86.31, 86.35, 87.07),
        "ImageNet": (77.91, 73.38, 76.53, 71.16),
        "ReaL": (83.57, 79.56, 82.19, 77.83),
        "Flowers": (89.49, 85.43, 89.66, 86.36),
        "Pets": (93.81, 92.04, 93.64, 91.35),
    },
    "ImageNet-21k": {
        "CIFAR-10": (98.95, 98.79, 99.16, 99.13, 99.27),
        "CIFAR-100": (91.67, 91.97, 93.44, 93.04, 93.82),
        "ImageNet": (83.97, 81.28, 85.15, 80.99, 85.13),
        "ReaL": (88.35, 86.63, 88.40, 85.65, 88.70),
        "Flowers": (99.38, 99.11, 99.61, 99.19, 99.51),
        "Pets": (94.43, 93.02, 94.73, 93.09, 94.82),
    },
    "JFT-300M": {
        "CIFAR-10": (99.00, 98.61, 99.38, 99.19, 99.50),
        "CIFAR-100": (91.87, 90.49, 94.04, 92.52, 94.55),
        "ImageNet": (84.15, 80.73, 87.12, 84.37, 88.04),
        "ReaL": (88.85, 86.27, 89.99, 88.28, 90.33),
        "Flowers": (99.56, 99.27, 99.56, 99.45, 99.68),
        "Pets": (95.80, 93.40, 97.11, 95.83, 97.56),
    },
}
# H/14 has no row for ImageNet.
TABLE_5: dict[str, dict[str, dict[str, float]]] = {
    source: {
        test: dict(zip(TABLE_5_MODELS, row, strict=False))
        for test, row in tests.items()
    }
    for source, tests in _TABLE_5.items()
}

_TABLE_6_COLUMNS = (
    "family name epochs imagenet real cifar10 cifar100 pets flowers exaflops".split()
)
# R50+ViT-L/16, 7 epochs: printed as 859 exaFLOPs; half of its 14 epochs is 834.
TABLE_6: list[dict[str, Any]] = [
    dict(zip(_TABLE_6_COLUMNS, row, strict=True))
    for row in (
        ("ViT", "ViT-B/32", 7, 80.73, 86.27, 98.61, 90.49, 93.40, 99.27, 55),
        ("ViT", "ViT-B/16", 7, 84.15, 88.85, 99.00, 91.87, 95.80, 99.56, 224),
        ("ViT", "ViT-L/32", 7, 84.37, 88.28, 99.19, 92.52, 95.83, 99.45, 196),
        ("ViT", "ViT-L/16", 7, 86.30, 89.43, 99.38, 93.46, 96.81, 99.66, 783),
        ("ViT", "ViT-L/16", 14, 87.12, 89.99, 99.38, 94.04, 97.11, 99.56, 1567),
        ("ViT", "ViT-H/14", 14, 88.08, 90.36, 99.50, 94.71, 97.11, 99.71, 4262),
        ("ResNet", "R50x1", 7, 77.54, 84.56, 97.67, 86.07, 91.11, 94.26, 50),
        ("ResNet", "R50x2", 7, 82.12, 87.94, 98.29, 89.20, 93.43, 97.02, 199),
        ("ResNet", "R101x1", 7, 80.67, 87.07, 98.48, 89.17, 94.08, 95.95, 96),
        ("ResNet", "R152x1", 7, 81.88, 87.96, 98.82, 90.22, 94.17, 96.94, 141),
        ("ResNet", "R152x2", 7, 84.97, 89.69, 99.06, 92.05, 95.37, 98.62, 563),
        ("ResNet", "R152x2", 14, 85.56, 89.89, 99.24, 91.92, 95.75, 98.75, 1126),
        ("ResNet", "R200x3", 14, 87.22, 90.15, 99.34, 93.53, 96.32, 99.04, 3306),
        ("hybrid", "R50+ViT-B/32", 7, 84.90, 89.15, 99.01, 92.24, 95.75, 99.46, 106),
        ("hybrid", "R50+ViT-B/16", 7, 85.58, 89.65, 99.14, 92.63, 96.65, 99.40, 274),
        ("hybrid", "R50+ViT-L/32", 7, 85.68, 89.04, 99.24, 92.93, 96.97, 99.43, 246),
        ("hybrid", "R50+ViT-L/16", 7, 86.60, 89.72, 99.18, 93.64, 97.03, 99.40, 859),
        ("hybrid", "R50+ViT-L/16", 14, 87.12, 89.76, 99.31, 93.89, 97.36, 99.11, 1668),
    )
]
_AVERAGE_5 = ("imagenet", "cifar10", "cifar100", "pets", "flowers")
for _row in TABLE_6:
    _row["average_5"] = sum(_row[name] for name in _AVERAGE_5) / len(_AVERAGE_5)

# ImageNet, CIFAR-10, CIFAR-100, Pets, Flowers, average. JFT, 7 epochs.
TABLE_7_COLUMNS = ("ImageNet", "CIFAR-10", "CIFAR-100", "Pets", "Flowers", "Average")
TABLE_7: dict[str, dict[str, dict[str, float]]] = {
    model: {
        optimizer: dict(zip(TABLE_7_COLUMNS, row, strict=True))
        for optimizer, row in rows.items()
    }
    for model, rows in {
        "R50x1": {
            "Adam": (77.54, 97.67, 86.07, 91.11, 94.26, 89.33),
            "SGD": (78.24, 97.46, 85.17, 91.00, 92.06, 88.79),
        },
        "R152x2": {
            "Adam": (84.97, 99.06, 92.05, 95.37, 98.62, 94.01),
            "SGD": (84.37, 99.07, 91.06, 94.79, 99.32, 93.72),
        },
    }.items()
}

# ViT-B/16, ImageNet 5-shot, as a share of 1; None: the paper has no such run.
TABLE_8_WHERE = ("stem", "every layer", "every layer, shared")
TABLE_8: dict[str, tuple[float | None, float | None, float | None]] = {
    "none": (0.61382, None, None),
    "1-D": (0.64206, 0.63964, 0.64292),
    "2-D": (0.64001, 0.64046, 0.64022),
    "relative": (0.64032, None, None),
}

TABLE_9_GROUPS = {
    "Natural": "Caltech101 CIFAR-100 DTD Flowers102 Pets Sun397 SVHN".split(),
    "Specialized": "Camelyon EuroSAT Resisc45 Retinopathy".split(),
    "Structured": (
        "Clevr-Count Clevr-Dist DMLab dSpr-Loc dSpr-Ori KITTI-Dist "
        "sNORB-Azim sNORB-Elev"
    ).split(),
}
TABLE_9_TASKS = tuple(task for tasks in TABLE_9_GROUPS.values() for task in tasks)
# fmt: off
TABLE_9: dict[str, dict[str, float]] = {
    model: dict(zip((*TABLE_9_TASKS, "Mean"), row, strict=True))
    for model, row in {
        "ViT-H/14 JFT": (
            95.3, 85.5, 75.2, 99.7, 97.2, 65.0, 88.9, 83.3, 96.7, 91.4, 76.6,
            91.7, 63.8, 53.1, 79.4, 63.3, 84.5, 33.2, 51.2, 77.6),
        "ViT-L/16 JFT": (
            95.4, 81.9, 74.3, 99.7, 96.7, 63.5, 87.4, 83.6, 96.5, 89.7, 77.1,
            86.4, 63.1, 49.7, 74.5, 60.5, 82.2, 36.2, 51.1, 76.3),
        "ViT-L/16 ImageNet-21k": (
            90.8, 84.1, 74.1, 99.3, 92.7, 61.0, 80.9, 82.5, 95.6, 85.2, 75.3,
            70.3, 56.1, 41.9, 74.7, 64.9, 79.9, 30.5, 41.7, 72.7),
    }.items()
}
# fmt: on

# VTAB by group: all 19 tasks, natural, specialized, structured.
FIGURE_2_GROUPS = (
    "VTAB (19 tasks)",
    "Natural (7)",
    "Specialized (4)",
    "Structured (8)",
)
FIGURE_2: dict[str, tuple[float, float, float, float]] = {
    "ViT-H/14": (77.6, 86.5, 87.0, 64.9),
    "BiT-L (R152x4)": (76.2, 85.4, 86.8, 62.7),
    "VIVI-Ex-100% (R50x3)": (70.3, 72.1, 83.7, 62.2),
    "S4L (R50x1)": (67.5, 73.0, 83.2, 54.7),
}

# ImageNet after fine-tuning, by pre-training set; the ViTs are Table 5.
FIGURE_3_SETS = ("ImageNet", "ImageNet-21k", "JFT-300M")
FIGURE_3_BIT = {"R50x1": (76.8, 80.05, 79.0), "R152x4": (81.3, 85.4, 87.75)}

# ImageNet 5-shot by number of pre-training images.
FIGURE_4: dict[str, Any] = {
    "images": (9e6, 30e6, 90e6, 303e6),
    "accuracy": {
        "ViT-L/16": (41.9, 57.9, 70.0, 71.6),
        "ViT-L/32": (36.2, 53.6, 64.1, 65.4),
        "ViT-B/32": (38.0, 52.9, 54.7, 55.2),
        "ViT-b/32": (37.4, 40.7, 41.2, 42.0),
        "R50x1": (47.8, 50.8, 51.9, 52.1),
        "R152x2": (52.7, 66.9, 69.0, 69.3),
    },
}

# By axis: (relative compute, ImageNet 5-shot, average 5-shot), shares of 1. The point
# of relative compute 1, common to all: 8 layers, width 1024, MLP 2048, patch 32.
_BASE = (1.0, 0.436, 0.682)
# fmt: off
FIGURE_8: dict[str, list[tuple[float, float, float]]] = {
    "All": [(0.162, 0.229, 0.504), _BASE, (8.88, 0.620, 0.780)],
    "Depth": [
        (0.271, 0.139, 0.398), (0.515, 0.303, 0.580), _BASE, (1.97, 0.532, 0.739),
        (3.06, 0.576, 0.750), (6.07, 0.611, 0.771)],
    "Patch size": [
        (0.271, 0.294, 0.567), (0.511, 0.359, 0.627), _BASE, (2.0, 0.485, 0.709),
        (4.10, 0.531, 0.739)],
    "Width MLP": [_BASE, (1.53, 0.485, 0.704), (3.02, 0.527, 0.733)],
    "Width": [
        (0.261, 0.325, 0.597), (0.572, 0.396, 0.648), _BASE, (1.74, 0.468, 0.697),
        (3.06, 0.490, 0.709)],
}
# fmt: on

# ImageNet 5-shot by epoch; the first GAP value at the lower rate is not legible.
FIGURE_9: dict[str, Any] = {
    "epochs": (0.34, 1, 2, 3, 4, 5, 6, 7),
    "accuracy": {
        "CLS, 8e-4": (25.6, 34.4, 39.4, 42.1, 44.5, 47.3, 51.1, 56.1),
        "GAP, 8e-4": (25.6, 33.9, 35.1, 35.6, 38.3, 41.0, 44.9, 50.4),
        "GAP, 3e-4": (None, 36.2, 42.4, 45.1, 47.7, 49.9, 52.5, 55.7),
    },
}

# Pixels, images of 224: nearest and furthest head of a layer. Uniform attention on the
# 14 x 14 grid has 116.5.
FIGURE_11: dict[str, Any] = {
    "layers": (0, 1, 2, 4, 6, 8, 10, 12, 16, 20, 23),
    "uniform": 116.5,
    "least": {
        "ViT-L/16": (8, 19, 17, 30, 60, 64, 88, 108, 108, 105, 114),
        "R50+ViT-L/16": (36, 47, 40, 53, 70, 83, 105, 91, 110, 108, 114),
    },
    "most": {
        "ViT-L/16": (110, 112, 112, 125, 111, 113, 115, 115, 112, 112, 120),
        "R50+ViT-L/16": (104, 113, 113, 115, 118, 119, 117, 115, 114, 115, 118),
    },
}

# A TPUv3 core: image sizes, images/s, largest batch (powers of two up to 1024). H/14
# was measured at its own sizes.
FIGURE_12_SIZES = (64, 128, 224, 384, 512)
FIGURE_12_SIZES_H14 = (70, 126, 224, 378, 518)
FIGURE_12_SPEED: dict[str, tuple[float, ...]] = {
    "R50x1": (21200, 6500, 2150, 770, 436),
    "R50x2": (8900, 2600, 890, 318, 178),
    "R152x4": (1090, 318, 111, 41, 23),
    "ViT-B/32": (18100, 6600, 2880, 991, 499),
    "ViT-L/32": (6300, 2250, 900, 306, 165),
    "ViT-B/16": (6700, 2230, 858, 247, 96),
    "ViT-L/16": (2250, 756, 280, 78, 32),
    "ViT-H/14": (880, 338, 88, 33, 15),
}
FIGURE_12_BATCH: dict[str, tuple[int, ...]] = {
    "R50x1": (1024, 1024, 1024, 256, 128),
    "R50x2": (1024, 1024, 512, 128, 64),
    "R152x4": (1024, 512, 128, 64, 32),
    "ViT-B/32": (1024, 1024, 1024, 1024, 1024),
    "ViT-L/32": (1024, 1024, 1024, 1024, 1024),
    "ViT-B/16": (1024, 1024, 1024, 512, 128),
    "ViT-L/16": (1024, 1024, 1024, 256, 128),
    "ViT-H/14": (1024, 1024, 1024, 256, 64),
}

# ImageNet 5-shot (share of 1), exaFLOPs, images/s on a TPUv3 core.
FIGURE_13: dict[str, tuple[float, float, float]] = {
    "ViT-B/32": (0.564, 56, 2860),
    "Axial-ViT-B/32": (0.582, 108, 880),
    "ViT-B/16": (0.635, 224, 860),
    "Axial-ViT-B/16": (0.658, 427, 236),
    "ResNet50": (0.495, 51, 2160),
    "AxialResNet50": (0.553, 56, 69),
}

# ViT-B/16 on ImageNet: from scratch, after masked patch prediction, supervised before.
SECTION_4_6 = {
    "from scratch": 77.91,
    "masked patch prediction": 79.9,
    "supervised, ImageNet-21k": 83.97,
}

# ObjectNet, ViT-H/14: top-5, top-1.
SECTION_D_9 = {"top-5": 82.1, "top-1": 61.7}

"""VTAB-1k (arXiv 1910.04867): 19 tasks of 1,000 training images each.

    python -m vit_jax.data.prepare clevr
    python -m vit_jax.train --workdir runs/clevr_count --init ViT-L_16.npz \\
        --config configs/vtab.py:task=clevr_count

Arguments: `task`, a name of `TASKS` below; `model`, taken from `--init` if not given;
`size`, 384 px (378 for ViT-H/14). The protocol of the ViT paper (sections 4.1 and
B.1.1): one setting for all tasks, SGD with learning rate 0.01, 2,500 steps, batch 512,
cosine, warm-up of 200 steps as in scenic; images as in BiT, 448 px and a random crop of
384, but no crop and no flip where they would change the label. Training is on 800
images of the task's training split and 200 of its validation split, testing on all of
its test split. `vit_jax.sweep` trains on the 800 and evaluates on the 200 first; give
it `--config.sweep.learning_rates=..` to compare settings, by the mean over all tasks.
The paper repeats each run with three seeds.

Splits and labels are those of google-research/task_adaptation. A slice selects the same
records whatever the file format they are stored in. Expected: `Task.paper`, Table 9;
means of the groups 86.7, 87.0, 65.0 % and of all 77.6 % for H/14. The files of
Retinopathy and Resisc45 have to be downloaded by hand, `prepare` says which. None of it
has been run: the data is not here.
"""

from typing import NamedTuple

import ml_collections

from configs import base, finetune

GROUPS = ("natural", "specialized", "structured")
# The columns of `Task.paper`.
PAPER_MODELS = ("ViT-H/14 JFT", "ViT-L/16 JFT", "ViT-L/16 ImageNet-21k")


class Task(NamedTuple):
    """A task of the benchmark.

    Attributes:
        group: one of `GROUPS`.
        data: tensorflow-datasets name.
        classes: number of classes.
        validation: the 200 images on which settings are compared.
        test: the split that is reported.
        paper: accuracy in percent in Table 9, for each of `PAPER_MODELS`.
        label: the value of `data.label`.
        crop, flip: whether training images are cropped and mirrored.
    """

    group: str
    data: str
    classes: int
    validation: str
    test: str
    paper: tuple[float, float, float]
    label: str = "label"
    crop: bool = True
    flip: bool = True


TRAIN = "train[:800]"
OWN_VALIDATION = "validation[:200]"


# In the order of Table 9. Where there is no validation split, the 200 images are the
# first after the 90, 80 or 60 % of the training split that task_adaptation trains on.
TASKS = {
    "caltech101": Task(
        "natural", "caltech101", 102, "train[2754:2954]", "test", (95.3, 95.4, 90.8)
    ),
    "cifar100": Task(
        "natural", "cifar100", 100, "train[45000:45200]", "test", (85.5, 81.9, 84.1)
    ),
    "dtd": Task("natural", "dtd", 47, OWN_VALIDATION, "test", (75.2, 74.3, 74.1)),
    "flowers102": Task(
        "natural", "oxford_flowers102", 102, OWN_VALIDATION, "test", (99.7, 99.7, 99.3)
    ),
    "pets": Task(
        "natural", "oxford_iiit_pet", 37, "train[2944:3144]", "test", (97.2, 96.7, 92.7)
    ),
    "sun397": Task(
        "natural", "sun397/tfds", 397, OWN_VALIDATION, "test", (65.0, 63.5, 61.0)
    ),
    "svhn": Task(
        "natural", "svhn_cropped", 10, "train[65931:66131]", "test", (88.9, 87.4, 80.9)
    ),
    "camelyon": Task(
        "specialized", "patch_camelyon", 2, OWN_VALIDATION, "test", (83.3, 83.6, 82.5)
    ),
    "eurosat": Task(
        "specialized",
        "eurosat/rgb",
        10,
        "train[16200:16400]",
        "train[21600:]",
        (96.7, 96.5, 95.6),
    ),
    "resisc45": Task(
        "specialized",
        "resisc45",
        45,
        "train[18900:19100]",
        "train[25200:]",
        (91.4, 89.7, 85.2),
    ),
    "retinopathy": Task(
        "specialized",
        "diabetic_retinopathy_detection/btgraham-300",
        5,
        OWN_VALIDATION,
        "test",
        (76.6, 77.1, 75.3),
    ),
    "clevr_count": Task(
        "structured",
        "clevr",
        8,
        "train[63000:63200]",
        "validation",
        (91.7, 86.4, 70.3),
        label="clevr_count",
        crop=False,
    ),
    "clevr_distance": Task(
        "structured",
        "clevr",
        6,
        "train[63000:63200]",
        "validation",
        (63.8, 63.1, 56.1),
        label="clevr_distance",
        crop=False,
    ),
    "dmlab": Task(
        "structured", "dmlab", 6, OWN_VALIDATION, "test", (53.1, 49.7, 41.9), crop=False
    ),
    "dsprites_location": Task(
        "structured",
        "dsprites",
        16,
        "train[589824:590024]",
        "train[663552:]",
        (79.4, 74.5, 74.7),
        label="dsprites_location",
        crop=False,
        flip=False,
    ),
    "dsprites_orientation": Task(
        "structured",
        "dsprites",
        16,
        "train[589824:590024]",
        "train[663552:]",
        (63.3, 60.5, 64.9),
        label="dsprites_orientation",
        flip=False,
    ),
    "kitti_distance": Task(
        "structured",
        "kitti",
        4,
        OWN_VALIDATION,
        "test",
        (84.5, 82.2, 79.9),
        label="kitti_distance",
        crop=False,
    ),
    "smallnorb_azimuth": Task(
        "structured",
        "smallnorb",
        18,
        "test[:200]",
        "test[50%:]",
        (33.2, 36.2, 30.5),
        label="label_azimuth",
        flip=False,
    ),
    "smallnorb_elevation": Task(
        "structured",
        "smallnorb",
        9,
        "test[:200]",
        "test[50%:]",
        (51.2, 51.1, 41.7),
        label="label_elevation",
    ),
}


def get_config(
    task: str = "cifar100", model: str = "", init: str = "", size: str = ""
) -> ml_collections.ConfigDict:
    """The setting that all tasks share, for one task."""
    if task not in TASKS:
        raise ValueError(f"task={task}: wanted one of {', '.join(TASKS)}")
    row, pixels = TASKS[task], int(size or finetune.whole_patches(model, 384))
    config = base.get_config()
    config.init = init
    config.model.name = model
    config.data.update(
        name=row.data,
        label=row.label,
        split=f"{TRAIN}+{row.validation}",
        image_size=(pixels, pixels),
        crop="resize_random_crop" if row.crop else "resize",
        crop_resize=pixels * 7 // 6,
        eval_crop="resize",
        flip="on" if row.flip else "off",
    )
    config.optim.update(
        name="sgd", learning_rate=0.01, momentum_dtype="bfloat16", warmup="200steps"
    )
    config.train.duration = "2500steps"
    # The test splits are many times as large as the training set.
    config.eval.update(every="100%", splits=(row.test,))
    config.checkpoint.every = "20%"
    config.sweep.update(
        learning_rates=(0.01,), train_split=TRAIN, dev_split=row.validation
    )
    return config

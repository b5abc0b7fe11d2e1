"""Every knob there is, with its default. The other configs state what they change.

Durations are text: "300epochs", "20000steps", "1e6examples", "10%" (of the whole run).
0 and "" mean off unless said otherwise.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The defaults; `data.name` and `model.name` are left to the experiment."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    # Checkpoint whose parameters training starts from: a run folder, a file, a name of
    # vit_jax/interop/public.csv. With model.name="" the architecture is taken from it.
    config.init = ""

    config.model = dict(
        name="",  # "ViT-B/16", "R50+ViT-B/16", "BiT-R50x1": vit_jax/models/variants.py
        pooling="token",  # token, gap, map or token_gap
        class_token="auto",  # auto (if the pooling reads it) or always
        class_token_position=True,  # whether it has a position embedding
        # none, learned, learned2d, sincos2d (fixed), relative, relative2d
        positions="learned",
        positions_at="stem",  # stem, every_layer or shared
        attention="full",  # or axial: rows, then columns
        norm_after_pooling=False,
        norm_epsilon=1e-6,
        activation="gelu_tanh",  # or gelu (exact), quick_gelu, relu, silu, ...
        pixel_mean=(0.5, 0.5, 0.5),  # what the weights expect of pixels in [0, 1]
        pixel_std=(0.5, 0.5, 0.5),
        pre_logits=False,  # tanh layer before the head, for pre-training
        head_bias_init=0.0,  # -6.9 (1000 classes) or -10 with the sigmoid loss
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        stochastic_depth_rate=0.0,  # of the last block, linear in depth
        stochastic_depth_uniform=False,  # in every block instead
        layer_scale_init=0.0,
        num_registers=0,
        attention_implementation="auto",  # auto, xla, cudnn
        scan=False,  # compile one block and loop; parameters are stacked
        remat="none",  # computed again in the backward pass: none, dots, full
        dtype="auto",  # auto (bfloat16 on GPU and TPU), float32, bfloat16, float16
    )
    config.data = dict(
        # "digits", a tensorflow-datasets name, a folder of images or of shards, or a
        # bucket: docs/data.md
        name="",
        split="train",
        classes=(),  # only these, relabelled in this order: names or numbers as text
        # the class: a field of a tensorflow-datasets record, or a rule that derives it
        # from one, such as clevr_count: vit_jax/data/vtab_labels.py
        label="label",
        # where tensorflow-datasets are prepared, also gs://bucket/folder; "" for its
        # default
        data_dir="",
        stage="",  # folder of each host that data in buckets is copied to
        holdout=0.1,  # share held out of a folder without splits
        batch_size=512,  # global
        image_size=(224, 224),  # (height, width) fed to the model
        # inception, resize_small_random_crop, resize_random_crop, padded_random_crop,
        # resize
        crop="inception",
        crop_area=(0.05, 1.0),  # of the Inception crop
        crop_resize=0,  # side before a random crop; 0 is 8/7 of the image's
        eval_crop="resize_small_center_crop",  # or resize_center_crop, resize
        eval_resize=0,  # side before the centre crop, likewise
        eval_interpolation="bilinear",  # or bicubic
        flip="auto",  # auto (off where it changes the label), on, off
        randaug_layers=0,
        randaug_magnitude=10.0,
        three_augment=False,  # one of greyscale, solarisation, blur (DeiT III)
        color_jitter=0.0,  # brightness, contrast, saturation by up to this share
        num_threads=0,  # threads without workers; 0 is one for each CPU it may use
        workers=0,  # processes that decode and augment; 0 for threads
        cache="auto",  # keep decoded images in memory: auto (if small), always, never
        on_error="raise",  # or skip, for broken images
        max_errors=100,  # training stops beyond so many skipped images
    )
    config.objective = dict(
        name="classification",  # or masked_patch: no labels, a ViT, appendix B.1.2
        # of masked_patch: the colour of a patch as one of 512 classes (mean_colour), of
        # its 4 x 4 cells (downscaled), or all of its pixels by least squares (pixels)
        target="mean_colour",
        corrupt_rate=0.5,  # share of patches that are corrupted and predicted
    )
    config.mix = dict(
        mixup_alpha=0.0,
        cutmix_alpha=0.0,
        per_example=False,  # one draw an example, not one a batch
    )
    config.loss = dict(name="softmax", label_smoothing=0.0)  # softmax or sigmoid
    config.optim = dict(
        name="adamw",  # adamw, lamb or sgd
        learning_rate=1e-3,  # the peak
        schedule="cosine",  # cosine, linear, rsqrt, constant, staircase
        milestones=(),  # of staircase: shares of the run where it falls to a tenth
        warmup="10000steps",
        cooldown="0steps",
        end_learning_rate=0.0,
        weight_decay=0.0,  # on kernels only; times the learning rate but with SGD
        clip_norm=1.0,
        momentum=0.9,  # beta_1 of Adam and LAMB, momentum of SGD
        b2=0.999,  # of Adam and LAMB
        epsilon=1e-8,  # of Adam and LAMB
        momentum_dtype="float32",  # or bfloat16
        layer_decay=1.0,  # learning-rate factor for each layer below the head
        freeze=(),  # regular expressions of parameter paths
    )
    config.train = dict(
        duration="300epochs",
        accumulate_steps=1,  # the batch is cut into so many pieces
        ema_decay=0.0,  # moving average of the parameters, evaluated beside them
        # bfloat16: all gradients cross the network so, not those of products alone
        gradient_dtype="float32",
        sam_rho=0.0,  # radius of sharpness-aware minimisation, which doubles the cost
        step_timeout=0.0,  # seconds; a step that takes longer dumps all stacks
        # the same bits each time on GPUs too, for some speed: docs/reliability.md
        deterministic=False,
    )
    config.guard = dict(
        policy="stop",  # for a faulty step: stop, skip, rollback (to a checkpoint)
        spike=0.0,  # a loss so many times its running mean is a fault; 0: only NaN, Inf
        max_faults=10,  # skipped in a row, or rollbacks, before the training stops
    )
    config.eval = dict(every="1epochs", splits=("test",), batch_size=512)
    # Frozen features, at intervals: written as metrics of the splits `fewshot`, `knn`.
    frozen = dict(
        every="",  # a duration; "" is off
        name="",  # of another data set; "" for the training's own
        train_split="train",
        test_split="test",
        classes=(),  # () for those of the training, or all of another data set
        data_dir="",
        crop="",  # as data.eval_crop, "" for that; big_vision: resize_center_crop
        batch_size=512,
    )
    config.fewshot = dict(
        **frozen,
        shots=(1, 5, 10, 25),
        seeds=3,  # random choices of examples; 0 takes the first of each class
        l2=1024.0,  # the penalty
    )
    config.knn = dict(**frozen, neighbours=20, temperature=0.07)
    # For `python -m vit_jax.sweep`: the best on dev_split is trained on data.split.
    config.sweep = dict(learning_rates=(), train_split="", dev_split="")
    config.checkpoint = dict(
        every="1epochs",
        keep_last=2,  # with 1 there is none to fall back to if it gets damaged
        keep_best=0,  # needs checkpoint.every to be a multiple of eval.every
        keep_every="0steps",  # steps kept for ever
        best_metric="accuracy",  # on the first of eval.splits
    )
    config.log = dict(
        every="50steps",
        tensorboard=True,
        wandb="",  # Weights & Biases project
    )
    config.mesh = dict(data=-1, fsdp=1, tensor=1)  # -1 takes the devices left
    return config

"""All config keys with their defaults. The other configs state what they change.

Durations are text: "300epochs", "20000steps", "1e6examples", "10%" (of the whole run).
0 and "" mean off unless said otherwise.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The defaults; `data.name` and `model.name` have none."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    # Checkpoint whose parameters training starts from: a run folder, a file, a name in
    # vit_jax/interop/public.csv. With model.name="" the architecture is taken from it.
    config.init = ""
    # Of its positions: bilinear, bicubic (timm's), bicubic_plain (Hugging Face's), or
    # auto: the last for a checkpoint of Hugging Face or ViT-5, else the first.
    config.resample = "auto"

    config.model = dict(
        name="",  # "ViT-B/16", "R50+ViT-B/16", "BiT-R50x1": vit_jax/models/variants.py
        pooling="token",  # token, gap, map or token_gap
        map_reads="all",  # what map reads: all tokens, or the patches
        class_token="auto",  # auto (if the pooling reads it) or always
        class_token_position=True,  # whether it has a position embedding
        distillation_token=False,  # DeiT's, with a second head
        # none, learned, learned2d, sincos2d (fixed), relative, relative2d,
        # relative_bias, relative_mlp, rope2d, learned_rope2d
        positions="learned",
        positions_at="stem",  # stem, every_layer or shared
        relative_mlp_dim=128,  # hidden features of relative_mlp
        # rotary positions: the table in vit_jax/models/rotary.py
        rope_frequencies="axial",  # or mixed (learned)
        rope_coordinates="centred",  # in [-1, 1], or index
        rope_base=100.0,
        rope_layout="half",  # which features are a pair; or pairs
        rope_axes="yx",  # or xy
        rope_grid=(),  # rows and columns that index coordinates are scaled to
        rope_register_base=0.0,  # of registers in a square of their own; 0 for none
        attention="full",  # or axial: rows, then columns
        qkv_bias="qkv",  # which of query, key, value have a bias; none for none
        qk_norm="none",  # of queries and keys: none, layernorm, rmsnorm
        attention_inner_norm=False,  # before the last projection
        block="pre_norm",  # or post_norm, parallel, pairs: vit_jax/models/encoder.py
        embedding_norm=False,  # before the blocks, and patches without bias (CLIP)
        norm="layernorm",  # or rmsnorm
        norm_after_pooling=False,
        norm_epsilon=1e-6,
        mlp="plain",  # or swiglu, of three matrices
        mlp_inner_norm=False,  # before the last matrix
        activation="gelu_tanh",  # or gelu (exact), quick_gelu, relu, silu, ...
        pixel_mean=(0.5, 0.5, 0.5),  # normalisation of pixels in [0, 1]
        pixel_std=(0.5, 0.5, 0.5),
        pre_logits=False,  # tanh layer before the head, for pre-training
        head_bias_init=0.0,  # -6.9 (1000 classes) or -10 with the sigmoid loss
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        stochastic_depth_rate=0.0,  # of the last block, linear in depth
        stochastic_depth_uniform=False,  # in every block instead
        layer_scale_init=0.0,
        # xavier; trunc_normal (timm's and DeiT's); mimetic (queries times keys near the
        # identity) or impulse (each head attends to one offset), for ablations
        initialization="xavier",
        num_registers=0,
        # of BiT ResNets: zeros beyond the border, or circular, the opposite side
        conv_padding="zeros",
        antialias=False,  # blurs in the place of their strides (arXiv 1904.11486)
        attention_implementation="auto",  # auto, xla, cudnn
        scan=False,  # compile one block and loop; parameters are stacked
        remat="none",  # recomputed in the backward pass: none, dots, full
        dtype="auto",  # auto (bfloat16 on GPU and TPU), float32, bfloat16, float16
    )
    config.data = dict(
        # "digits", a tensorflow-datasets name, a folder of images or of shards, a CSV
        # file beside images, or a bucket: docs/data.md
        name="",
        split="train",
        classes=(),  # only these, relabelled in this order: names, or numbers as text
        # the field of a tensorflow-datasets record that is the class, or a rule that
        # derives the class, such as clevr_count: vit_jax/data/vtab_labels.py
        label="label",
        # folder of tensorflow-datasets, also gs://bucket/folder; "" for its default
        data_dir="",
        stage="",  # folder on each host that data in buckets is copied to
        holdout=0.1,  # share held out of a folder without splits
        batch_size=512,  # global
        image_size=(224, 224),  # (height, width) fed to the model
        # inception (TensorFlow's boxes), random_resized_crop (torchvision's),
        # resize_small_random_crop, resize_random_crop, padded_random_crop, resize
        crop="inception",
        crop_area=(0.05, 1.0),  # share of the image of the first two crops
        crop_resize=0,  # side before a random crop; 0 is 8/7 of the image size
        eval_crop="resize_small_center_crop",  # or resize_center_crop, resize
        eval_resize=0,  # side before the centre crop; 0 is 8/7 of the image size
        eval_interpolation="bilinear",  # or bicubic
        flip="auto",  # auto (off where it changes the label), on, off
        randaug_layers=0,
        randaug_magnitude=10.0,
        # tensorflow (the papers' code with its accidents) or intended (without them)
        randaug_variant="tensorflow",
        # for classes of unequal size: balanced, equally many images of each; or sqrt
        sampling="",
        repeated_augmentation=1,  # copies of an image in a batch (DeiT III: 3)
        three_augment=False,  # one of greyscale, solarisation, blur (DeiT III)
        color_jitter=0.0,  # brightness, contrast, saturation by up to this share
        # pixels a side to which images are cut, to stand anywhere on a grey canvas of
        # image_size; 0: they fill it
        object_size=0,
        # one fixed permutation of all images: of their patches, of the pixels in each
        # patch, or both; and the side of these patches in pixels
        scramble="",
        scramble_patch=0,
        num_threads=0,  # threads if workers=0; 0 is one for each usable CPU
        workers=0,  # processes that decode and augment; 0 for threads
        cache="auto",  # keep decoded images in memory: auto (if small), always, never
        on_error="raise",  # or skip, for broken images
        max_errors=100,  # training stops after more skipped images
    )
    config.objective = dict(
        # classification; distillation: from a teacher too; or masked_patch: no labels,
        # a ViT, appendix B.1.2
        name="classification",
        # for masked_patch: a patch's mean colour, one of 512 (mean_colour), those of
        # its 4 x 4 cells (downscaled), or all of its pixels by least squares (pixels)
        target="mean_colour",
        corrupt_rate=0.5,  # share of patches that are corrupted and predicted
        # for distillation: a checkpoint of the same classes, as in init; whether its
        # decision is learned (hard) or its probabilities at a temperature (soft); and
        # its share in the loss
        teacher="",
        distillation="hard",
        temperature=1.0,
        alpha=0.5,
    )
    config.mix = dict(
        mixup_alpha=0.0,
        cutmix_alpha=0.0,
        per_example=False,  # a draw for each example, not one for a batch
    )
    config.loss = dict(
        name="softmax",  # or sigmoid, which several labels an image need
        label_smoothing=0.0,
        round_up=False,  # targets of mixed images, for sigmoid: shares become 1
        # for classes of unequal size: balanced, n / (k count); or sqrt, half of that
        class_weights="",
    )
    config.optim = dict(
        name="adamw",  # adamw, lamb, muon or sgd
        learning_rate=1e-3,  # the peak
        schedule="cosine",  # cosine, linear, rsqrt, constant, staircase
        milestones=(),  # for staircase: shares of the run where it falls to a tenth
        warmup="10000steps",
        cooldown="0steps",
        end_learning_rate=0.0,
        weight_decay=0.0,  # on kernels only; times the learning rate except for SGD
        clip_norm=1.0,
        momentum=0.9,  # beta_1 of Adam and LAMB, momentum of SGD and Muon (there 0.95)
        b2=0.999,  # for Adam, also beside Muon, and LAMB
        epsilon=1e-8,  # likewise
        momentum_dtype="float32",  # or bfloat16
        layer_decay=1.0,  # learning-rate factor for each layer below the head
        freeze=(),  # regular expressions of parameter paths
    )
    config.train = dict(
        duration="300epochs",
        accumulate_steps=1,  # number of pieces of the batch
        ema_decay=0.0,  # of the parameters' average, which is evaluated too
        # the decay grows, as (1 + step) / (10 + step), until it has that value
        ema_ramp=True,
        # bfloat16: all gradients cross the network in it, not only those of products
        gradient_dtype="float32",
        sam_rho=0.0,  # radius of sharpness-aware minimisation, which doubles the cost
        step_timeout=0.0,  # seconds; a step that takes longer dumps all stacks
        # reproducible bits also on GPUs, at some cost of speed: docs/reliability.md
        deterministic=False,
    )
    config.guard = dict(
        policy="stop",  # for a faulty step: stop, skip, rollback (to a checkpoint)
        # a loss above this multiple of its running mean is a fault; 0: only NaN and Inf
        spike=0.0,
        max_faults=10,  # skipped steps in a row, or rollbacks, before training stops
    )
    config.eval = dict(every="1epochs", splits=("test",), batch_size=512)
    # Evaluations of frozen features, written as metrics of splits `fewshot` and `knn`.
    frozen = dict(
        every="",  # a duration; "" is off
        name="",  # another data set; "" for that of the training
        train_split="train",
        test_split="test",
        classes=(),  # () for those of the training, or for all of another data set
        data_dir="",
        crop="",  # "" for data.eval_crop; big_vision has resize_center_crop
        batch_size=512,
    )
    config.fewshot = dict(
        **frozen,
        shots=(1, 5, 10, 25),
        seeds=3,  # random choices of examples; 0 takes the first of each class
        l2=1024.0,  # the penalty
    )
    config.knn = dict(**frozen, neighbours=20, temperature=0.07)
    # For `vit_jax.sweep`: the best rate on dev_split is used to train on data.split.
    config.sweep = dict(
        learning_rates=(),
        train_split="",
        dev_split="",
        best_weights="params",  # that are compared; or ema, the average
    )
    config.checkpoint = dict(
        every="1epochs",
        keep_last=2,  # 1 leaves no older one if the last is damaged
        keep_best=0,  # needs checkpoint.every to be a multiple of eval.every
        keep_every="0steps",  # checkpoints at these steps are kept for ever
        best_metric="accuracy",  # or top5, map; on the first of eval.splits
        best_weights="params",  # whose metric it is; or ema, the average
    )
    config.log = dict(
        every="50steps",
        tensorboard=True,
        wandb="",  # Weights & Biases project
    )
    config.mesh = dict(data=-1, fsdp=1, tensor=1)  # -1 takes the remaining devices
    return config

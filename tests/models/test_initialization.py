"""What models are before training: the distributions of DeiT III."""

import jax
import numpy as np
import pytest

from vit_jax.interop.adapt import attributes
from vit_jax.models import create_model, init_params, model_options
from vit_jax.models.depth import stack_blocks
from vit_jax.training.optim import path_name

SIZES = dict(depth=2, width=64, mlp_dim=256, num_heads=4, pre_logits=True)
OPTIONS = dict(layer_scale_init=1e-4, head_bias_init=-6.9, num_registers=4)


def model(initialization="trunc_normal", **options):
    options = SIZES | OPTIONS | {"initialization": initialization} | options
    return create_model("ViT-mu/8", num_classes=100, image_size=32, **options)


def drawn(model):
    params = init_params(model, jax.random.key(0))
    return {
        path_name(path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(params)
    }


def test_kernels_head_and_tokens_are_normal_biases_zero():
    """`vit_models._init_weights` of facebookresearch/deit, models_v2.py."""
    params = drawn(model())
    normal = [
        name
        for name in params
        if name.endswith("/kernel") and name != "embedding/kernel"
    ]
    assert len(normal) == 14
    normal += ["class_token", "registers", "positions/embedding"]
    for name in normal:
        values = params.pop(name)
        error = 4 * 0.02 / values.size**0.5  # four standard errors
        assert abs(values.mean()) < error and abs(values.std() - 0.02) < error
        # A uniform distribution of this deviation ends at 1.73 of it.
        assert values.size < 1000 or np.abs(values).max() > 2.5 * 0.02
    # 8 * 8 * 3 inputs: PyTorch's convolutions are uniform, up to 1 / sqrt(fan-in).
    bound = 192**-0.5
    kernel, bias = params.pop("embedding/kernel"), params.pop("embedding/bias")
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    assert abs(kernel.std() - bound / 3**0.5) < 0.02 * bound
    assert 0.8 * bound < np.abs(bias).max() <= bound
    for name, values in params.items():
        value = {"scale": 1, "layer_scale": 1e-4}.get(name.rpartition("/")[2], 0)
        value = -6.9 if name == "head/bias" else value
        np.testing.assert_array_equal(values, np.float32(value), err_msg=name)


def test_a_distillation_token_and_its_head_are_drawn_too():
    params = drawn(model(distillation_token=True, pre_logits=False))
    for name in ("distillation_token", "distillation_head/kernel"):
        assert abs(params[name].std() - 0.02) < 0.006
    assert np.abs(params["distillation_token"] - params["class_token"]).max() > 0.01
    np.testing.assert_array_equal(params["distillation_head/bias"], np.float32(-6.9))


def test_no_two_kernels_are_alike():
    params = drawn(model())
    first, second = (f"encoder/block_0{i}/mlp/out/kernel" for i in (0, 1))
    assert np.abs(params[first] - params[second]).max() > 0.01


def test_the_stem_of_a_hybrid_stays_as_it_is():
    options = dict(resnet_stem=(), stem_width=32)
    ours, google = (
        drawn(model(name, **options)) for name in ("trunc_normal", "xavier")
    )
    np.testing.assert_array_equal(
        ours["resnet/root/kernel"], google["resnet/root/kernel"]
    )
    assert not np.array_equal(ours["embedding/kernel"], google["embedding/kernel"])


def test_scanned_blocks_begin_as_the_others():
    jax.tree.map(
        np.testing.assert_array_equal,
        init_params(model(scan=True), jax.random.key(0)),
        stack_blocks(init_params(model(), jax.random.key(0))),
    )


def test_it_is_an_option_like_others_that_a_checkpoint_does_not_depend_on():
    assert model_options(model())["initialization"] == "trunc_normal"
    assert "initialization" not in model_options(model("xavier"))
    assert attributes(model()) == attributes(model("xavier"))
    with pytest.raises(ValueError, match="wanted one of xavier, trunc_normal"):
        drawn(model("kaiming"))
    with pytest.raises(ValueError, match="BiT-R26x1 has no option 'initialization'"):
        create_model("BiT-R26x1", initialization="trunc_normal")

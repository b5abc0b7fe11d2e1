"""What several of the models are made of."""

import math
from collections.abc import Callable
from typing import Annotated, Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models import forms
from vit_jax.values import Choice

ACTIVATIONS = {
    "gelu_tanh": nn.gelu,  # the tanh approximation, as in the released code
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
    "relu6": nn.relu6,
    "silu": nn.silu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "mish": jax.nn.mish,
    "elu": nn.elu,
    "leaky_relu": nn.leaky_relu,
}
Activation = Annotated[str, Choice(*ACTIVATIONS)]
# Where training begins: `xavier`, which the modules draw, is that of google-research's
# vision_transformer and big_vision; `trunc_normal` is below; `mimetic` and `impulse`,
# with a structure in self-attention, are in initialization.py.
Initialization = Annotated[str, Choice("xavier", "trunc_normal", "mimetic", "impulse")]
# Of PyTorch projects. Truncated at 2, as theirs, it is a normal distribution.
DEVIATION = 0.02
TOKENS = ("class_token", "distillation_token", "map_head/probe")
HEAD_BIASES = ("head/bias", "distillation_head/bias")


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` in the form for the device.

    Attributes:
        train: whether a gradient of reverse mode is all that is asked for.
    """

    train: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        own = forms.on_cpu() or (self.train and forms.for_gpu(self.dtype))
        if self.is_initializing() or not own:
            return super().__call__(x)
        scale, bias = (self.get_variable("params", n) for n in ("scale", "bias"))
        rows = forms.as_rows(x.astype(self.dtype), self.dtype)
        norm = forms.trained_layer_norm if self.train else forms.layer_norm
        normed: Array = norm(rows, scale, bias, self.epsilon)
        return normed.reshape(x.shape)


NORMS = {"layernorm": LayerNorm, "rmsnorm": nn.RMSNorm}


def make_norm(
    kind: str, epsilon: float, dtype: Any, name: str, *, train: bool = False
) -> nn.Module:
    """A norm over the features, its statistics in float32.

    With `train`, it may have no derivative of forward mode.
    """
    options = {"train": train} if kind == "layernorm" else {}
    return NORMS[kind](epsilon, dtype=dtype, name=name, **options)


def activation(name: str, dtype: Any, *, train: bool) -> Callable[[Array], Array]:
    """The function of a plain MLP, in the form for the device."""
    if train and name == "gelu_tanh" and (forms.on_cpu() or forms.for_gpu(dtype)):
        return forms.trained_gelu_tanh
    function = ACTIVATIONS[name]
    return forms.in_float32(function) if forms.on_cpu() else function


class Dense(nn.Module):
    """A dense layer over the last axes of its input, in the form for the device.

    Parameters and their initial values are those of `nn.Dense` and `nn.DenseGeneral`,
    but heads are no axes of the product: for those XLA picks layouts that it has to
    copy from and to, and no library adds their bias.

    Attributes:
        features: sizes of the axes that come instead of the last of the input.
        inputs: how many last axes of the input they come instead of.
    """

    features: tuple[int, ...]
    inputs: int = 1
    use_bias: bool = True
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    bias_init: Callable[..., Array] = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """The output, of axes `features`; `train` asks for no forward mode."""
        rows, sizes = x.shape[: x.ndim - self.inputs], x.shape[x.ndim - self.inputs :]
        matrix = math.prod(sizes), math.prod(self.features)

        def drawn(init: Callable[..., Array], flat: tuple[int, ...]) -> Any:
            # As a matrix: its fan-in and fan-out are those of the layer.
            return lambda key, shape: init(key, flat, jnp.float32).reshape(shape)

        shape = (*sizes, *self.features)
        kernel = self.param("kernel", drawn(self.kernel_init, matrix), shape)
        x = x.reshape(*rows, -1).astype(self.dtype)
        kernel = kernel.reshape(matrix).astype(self.dtype)
        if self.use_bias:
            init = drawn(self.bias_init, matrix[1:])
            bias = self.param("bias", init, self.features).reshape(-1)
            y = forms.dense(x, kernel, bias.astype(self.dtype), train=train)
        else:
            y = forms.dense(x, kernel, None, train=train)
        return y.reshape(*rows, *self.features)


class PatchEmbedding(nn.Module):
    """Cuts an image or feature map into patches and maps each to `width` features.

    The kernel is that of a convolution with stride `patch_size` and no padding, so
    released weights fit; it is computed as one matrix product, which is faster.
    """

    patch_size: tuple[int, int]
    width: int
    dtype: Any = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(
        self, images: Float[Array, "b height width c"], *, train: bool
    ) -> Float[Array, "b h w d"]:
        p, q = self.patch_size
        shape = (p, q, images.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        patches = einops.rearrange(
            images.astype(self.dtype), "b (h p) (w q) c -> b h w (p q c)", p=p, q=q
        )
        kernel = einops.rearrange(kernel, "p q c d -> (p q c) d")
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.width,))
            bias = bias.astype(self.dtype)
        return forms.dense(patches, kernel.astype(self.dtype), bias, train=train)


class Mlp(nn.Module):
    """Two dense layers with a GELU between, dropout after each.

    Attributes:
        gated: SwiGLU (arXiv 2002.05202): the first layer has a SiLU gate beside it
            instead of the activation behind it.
        inner_norm: kind of a norm before the second layer, "" for none.
    """

    hidden_dim: int
    dropout_rate: float = 0.0
    activation: str = "gelu_tanh"
    dtype: Any = jnp.float32
    kernel_init: Callable[..., Array] = nn.initializers.xavier_uniform()
    bias_init: Callable[..., Array] = nn.initializers.normal(stddev=1e-6)
    gated: bool = False
    inner_norm: str = ""
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], *, train: bool
    ) -> Float[Array, "b l d"]:
        def dense(name: str, features: int, x: Array) -> Array:
            layer = Dense(
                (features,),
                kernel_init=self.kernel_init,
                bias_init=self.bias_init,
                dtype=self.dtype,
                name=name,
            )
            return layer(x, train=train)

        shape = x.shape
        x = forms.as_rows(x, self.dtype)
        hidden = dense("hidden", self.hidden_dim, x)
        if self.gated:
            x = nn.silu(dense("gate", self.hidden_dim, x)) * hidden
        else:
            x = activation(self.activation, self.dtype, train=train)(hidden)
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
        if self.inner_norm:
            norm = make_norm(self.inner_norm, self.norm_epsilon, self.dtype, "norm")
            x = norm(x)
        x = dense("out", shape[-1], x).reshape(shape)
        return nn.Dropout(self.dropout_rate)(x, deterministic=not train)


class ResidualBranch(nn.Module):
    """What happens to a branch's output before it is added: LayerScale, sample drop.

    LayerScale (arXiv 2103.17239, Eq. 5): a learned factor a feature, off if 0.
    Stochastic depth (arXiv 1603.09382): the branch is dropped for single samples,
    and scaled up for those that keep it.
    """

    layer_scale_init: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], drop_rate: Any, *, train: bool
    ) -> Float[Array, "b l d"]:
        """`drop_rate` is a number, or an array of one where layers are scanned."""
        if self.layer_scale_init:
            init = nn.initializers.constant(self.layer_scale_init)
            x = x * self.param("layer_scale", init, (x.shape[-1],)).astype(x.dtype)
        if not train or (isinstance(drop_rate, float) and drop_rate == 0):
            return x
        keep = jnp.asarray(1 - drop_rate, jnp.float32)
        shape = (x.shape[0], 1, 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
        return x * (kept / keep).astype(x.dtype)


def divide_batch(x: Array) -> Array:
    """Keeps the first axis divided over the devices of a mesh, and the others whole.

    Where parameters are divided too, the compiler might otherwise divide the features
    and gather the batch. Without a mesh, nothing happens.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    spec = jax.sharding.PartitionSpec(("data", "fsdp"))
    return jax.lax.with_sharding_constraint(x, spec)


def classifier(num_classes: int, bias_init: float, name: str = "head") -> nn.Dense:
    """The head of every model: float32, its kernel zero at first."""
    return nn.Dense(
        num_classes,
        kernel_init=nn.initializers.zeros,
        bias_init=nn.initializers.constant(bias_init),
        name=name,
    )


def trunc_normal(params: dict[str, Any], key: jax.Array) -> dict[str, Any]:
    """The parameters of a ViT drawn anew, as DeiT III and timm begin.

    Kernels, head and tokens are normal with a standard deviation of 0.02, biases zero.
    The patch embedding is that of PyTorch's convolutions: kernel and bias uniform up to
    1 / sqrt(fan-in). A ResNet stem, norms, LayerScale, positions and the head's bias
    stay as they are.
    """
    leaves, tree = jax.tree.flatten_with_path(params)
    keys = jax.random.split(key, len(leaves))
    fan_in = math.prod(params["embedding"]["kernel"].shape[:-1])

    def drawn(path: tuple[Any, ...], old: jax.Array, key: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.startswith("embedding/"):
            bound = fan_in**-0.5
            return jax.random.uniform(key, old.shape, old.dtype, -bound, bound)
        if name.startswith("resnet/"):
            return old
        if name.endswith("/kernel") or name in TOKENS:
            return DEVIATION * jax.random.normal(key, old.shape, old.dtype)
        return 0 * old if name.endswith("/bias") and name not in HEAD_BIASES else old

    pairs = zip(leaves, keys, strict=True)
    return tree.unflatten([drawn(*leaf, key) for leaf, key in pairs])

"""Encoders against published parameter counts, a slow NumPy network, and what training asks."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same

from rmdnet_jax.errors import UserError
from rmdnet_jax.networks import encoders, layers
from rmdnet_jax.networks.encoders import ENCODERS, cnn
from rmdnet_jax.networks.heads import linear, mlp
from rmdnet_jax.networks.layers import count
from rmdnet_jax.types import Variables

TINY = {name: {"width": 2} for name in ENCODERS} | {"cnn": {"widths": (3, 5)}}
DIM = {
    "cnn": 5,
    "preact_resnet18": 16,
    "resnet18": 16,
    "resnet34": 16,
    "resnet50": 64,
    "wrn28_2": 16,
}
CHEAP = ("cnn", "preact_resnet18")  # to compile


def images(batch=4, size=8, channels=3, seed=0):
    return jnp.asarray(
        np.random.default_rng(seed).normal(size=(batch, size, size, channels)), jnp.float32
    )


def scrambled(network, x, seed=1):
    """A network's arrays filled by NumPy; no scale, bias or statistic hides behind a 0 or a 1."""
    rng = np.random.default_rng(seed)

    def value(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            return jnp.asarray(
                rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.dtype
            )
        low, high = (0.5, 1.5) if kind in ("scale", "var") else (-0.5, 0.5)
        return jnp.asarray(rng.uniform(low, high, leaf.shape), leaf.dtype)

    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    return Variables(*(jax.tree_util.tree_map_with_path(value, tree) for tree in shapes))


def run(network, variables, x, train=False):
    return jax.jit(network.apply, static_argnums=2)(variables, x, train)


# --- counts

# torchvision's tables (ImageNet stem, 1000 classes), kuangliu/pytorch-cifar's networks (CIFAR stem,
# 10 classes), WRN-28-2's 1.5 M
PUBLISHED = [
    ("preact_resnet18", {}, 10, 11_171_146),
    ("resnet18", {}, 10, 11_173_962),
    ("resnet18", {"stem": "imagenet"}, 1000, 11_689_512),
    ("resnet34", {}, 10, 21_282_122),
    ("resnet34", {"stem": "imagenet"}, 1000, 21_797_672),
    ("resnet50", {}, 1000, 25_557_032),
    ("resnet50", {"stem": "cifar"}, 10, 23_520_842),
    ("wrn28_2", {}, 10, 1_467_610),
]


@pytest.mark.parametrize(("name", "options", "classes", "published"), PUBLISHED)
def test_count_is_the_published_one(name, options, classes, published):
    network, head = ENCODERS[name](**options), linear(classes)
    variables, x = jax.eval_shape(network.init, jax.random.key(0), images(2, 32)), images(2, 32)
    feature, _ = jax.eval_shape(lambda v: network.apply(v, x, False), variables)
    top = jax.eval_shape(head.init, jax.random.key(0), feature)
    assert count(variables.params) + count(top.params) == published


def test_count_adds_up_all_leaves():
    assert count({"a": np.zeros((2, 3)), "b": {"c": np.zeros(4), "d": np.zeros(())}}) == 11


# --- every encoder of the table


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_arrays_are_float32_and_features_have_their_shape(name, dtype):
    network, x = ENCODERS[name](**TINY[name], dtype=dtype), images()
    variables = jax.eval_shape(network.init, jax.random.key(0), x)
    for train in (False, True):
        feature, stats = jax.eval_shape(lambda v, t=train: network.apply(v, x, t), variables)
        assert feature.shape == (4, DIM[name])
        assert {leaf.dtype for leaf in jax.tree.leaves((variables, feature, stats))} == {
            jnp.dtype("float32")
        }
        assert jax.tree.structure(stats) == jax.tree.structure(variables.stats)


@pytest.mark.parametrize("name", ENCODERS)
def test_signature_is_the_schema(name):
    parameters = inspect.signature(ENCODERS[name]).parameters.values()
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters)
    assert {"dtype"} < {p.name for p in parameters} <= {"dtype", "width", "widths", "stem"}


def test_one_pixel_is_not_pooled_away():
    network, x = cnn(widths=(2, 2, 2)), images(2, 2)
    assert np.isfinite(network.apply(network.init(jax.random.key(0), x), x, False)[0]).all()


@pytest.mark.parametrize("name", CHEAP)
def test_computing_in_bfloat16_is_close_and_not_equal(name, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # on a CPU it would be float32
    x = images()
    exact = ENCODERS[name](**TINY[name])
    variables = scrambled(exact, x)
    full, _ = run(exact, variables, x)
    half, _ = run(ENCODERS[name](**TINY[name], dtype="bfloat16"), variables, x)
    error = np.linalg.norm(half - full) / np.linalg.norm(full)
    assert 1e-4 < error < 3e-2  # bfloat16 keeps 8 bits: 4e-3 a rounding


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18"])
def test_on_a_cpu_bfloat16_is_computed_in_float32(name, train):
    """With jax 0.11 and 0.12 an evaluation in bfloat16 gave NaN there, at this size."""
    x = np.random.default_rng(0).normal(size=(16, 32, 32, 3)).astype(np.float32)
    exact, half = (ENCODERS[name](width=16, dtype=dtype) for dtype in ("float32", "bfloat16"))
    variables = exact.init(jax.random.key(0), x)
    assert_same(half.init(jax.random.key(0), x), variables)
    one, two = (jax.jit(lambda v, x, n=n: n.apply(v, x, train)[0]) for n in (exact, half))
    found = np.asarray(two(variables, x))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, one(variables, x))


@pytest.mark.parametrize("name", CHEAP)
def test_evaluation_keeps_stats_and_treats_images_alone(name):
    network, x = ENCODERS[name](**TINY[name]), images(6)
    variables = scrambled(network, x)
    together, stats = run(network, variables, x)
    alone, _ = run(network, variables, x[2:3])
    np.testing.assert_allclose(alone, together[2:3], rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, stats, variables.stats)
    in_training, _ = run(network, variables, x, True)
    assert np.abs(in_training - together).max() > 1e-2


@pytest.mark.parametrize("name", CHEAP)
def test_every_parameter_is_used_and_every_stat_moves(name):
    network, x = ENCODERS[name](**TINY[name]), images()
    variables = scrambled(network, x)

    @jax.jit
    def both(params):
        def loss(params):
            feature, stats = network.apply(Variables(params, variables.stats), x, True)
            return jnp.sum(feature**2), stats

        return jax.grad(loss, has_aux=True)(params)

    gradient, stats = both(variables.params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    moved = jax.tree.map(lambda new, old: bool(np.abs(new - old).max() > 0), stats, variables.stats)
    assert all(jax.tree.leaves(moved))


def test_same_key_same_arrays():
    network, x = cnn(widths=(3,)), images()
    first, again, other = (network.init(jax.random.key(seed), x) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert np.abs(first.params["conv1"]["kernel"] - other.params["conv1"]["kernel"]).max() > 0


# --- against NumPy


def slow_conv(x, kernel, stride):
    size, pad = kernel.shape[0], kernel.shape[0] // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:3])
    y = np.zeros((len(x), rows, columns, kernel.shape[-1]))
    for r in range(rows):
        for c in range(columns):
            patch = x[:, r * stride : r * stride + size, c * stride : c * stride + size]
            y[:, r, c] = np.einsum("bijc,ijcf->bf", patch, kernel)
    return y


def slow_max_pool(x):
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    rows, columns = ((n - 3) // 2 + 1 for n in x.shape[1:3])
    return np.stack(
        [
            [x[:, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3].max((1, 2)) for c in range(columns)]
            for r in range(rows)
        ]
    ).transpose(2, 0, 1, 3)


class Slow:
    """The layers of one part of a network, by name, with running statistics."""

    def __init__(self, params, stats):
        self.params, self.stats = params, stats

    def conv(self, x, name, stride=1):
        return slow_conv(x, np.float64(self.params[name]["kernel"]), stride)

    def norm(self, x, name):
        p, s = (
            {k: np.float64(v) for k, v in tree[name].items()} for tree in (self.params, self.stats)
        )
        return (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]

    def part(self, name):
        return Slow(self.params[name], self.stats[name])


def relu(x):
    return np.maximum(x, 0)


def basic(net, x, stride, wider):
    shortcut = net.norm(net.conv(x, "shortcut", stride), "shortcut_norm") if wider else x
    y = relu(net.norm(net.conv(x, "conv1", stride), "norm1"))
    return relu(net.norm(net.conv(y, "conv2"), "norm2") + shortcut)


def bottleneck(net, x, stride, wider):
    shortcut = net.norm(net.conv(x, "shortcut", stride), "shortcut_norm") if wider else x
    y = relu(net.norm(net.conv(x, "conv1"), "norm1"))
    y = relu(net.norm(net.conv(y, "conv2", stride), "norm2"))
    return relu(net.norm(net.conv(y, "conv3"), "norm3") + shortcut)


def preact(net, x, stride, wider):
    y = relu(net.norm(x, "norm0"))
    shortcut = net.conv(y, "shortcut", stride) if wider else x
    return net.conv(relu(net.norm(net.conv(y, "conv1", stride), "norm1")), "conv2") + shortcut


def slow_resnet(net, x, block, blocks, stem, widens_first):
    x = net.conv(x, "stem", 2 if stem == "imagenet" else 1)
    if block is not preact:
        x = relu(net.norm(x, "stem_norm"))
    if stem == "imagenet":
        x = slow_max_pool(x)
    for stage, number in enumerate(blocks, start=1):
        for i in range(1, number + 1):
            wider = i == 1 and (stage > 1 or widens_first)
            x = block(
                net.part(f"stage{stage}_block{i}"), x, 2 if stage > 1 and i == 1 else 1, wider
            )
    if "final_norm" in net.params:
        x = relu(net.norm(x, "final_norm"))
    return x.mean((1, 2))


SLOW = [
    ("preact_resnet18", {}, preact, (2, 2, 2, 2), "cifar", False),
    ("resnet18", {"stem": "cifar"}, basic, (2, 2, 2, 2), "cifar", False),
    ("resnet18", {"stem": "imagenet"}, basic, (2, 2, 2, 2), "imagenet", False),
    ("resnet50", {"stem": "cifar"}, bottleneck, (3, 4, 6, 3), "cifar", True),
    ("wrn28_2", {}, preact, (4, 4, 4), "cifar", True),
]


@pytest.mark.parametrize(("name", "options", "block", "blocks", "stem", "widens_first"), SLOW)
def test_forward_is_the_slow_one(name, options, block, blocks, stem, widens_first):
    network, x = (
        ENCODERS[name](**options, width=2),
        images(2, 16 if stem == "imagenet" else 8)[:, :-2],
    )  # odd and even sizes
    variables = scrambled(network, x)
    expected = slow_resnet(Slow(*variables), np.float64(x), block, blocks, stem, widens_first)
    fast, _ = run(network, variables, x)
    np.testing.assert_allclose(fast, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_cnn_forward_is_the_slow_one_in_float64():
    with jax.enable_x64(True):
        network, x = cnn(widths=(3, 4), dtype="float64"), images(2, 6)
        variables = scrambled(network, x)
        fast, stats = network.apply(variables, x, True)
        assert {leaf.dtype for leaf in jax.tree.leaves((variables, fast, stats))} == {
            jnp.dtype("float64")
        }
        fast, _ = network.apply(variables, x, False)
        slow = Slow(*variables)
        y = relu(slow.norm(slow.conv(np.float64(x), "conv1"), "norm1"))
        y = y.reshape(2, 3, 2, 3, 2, 3).max((2, 4))
        y = relu(slow.norm(slow.conv(y, "conv2"), "norm2"))
        np.testing.assert_allclose(fast, y.mean((1, 2)), rtol=1e-10)


def test_training_normalises_by_the_batch_and_moves_the_stats_by_a_tenth():
    network, x = cnn(widths=(3,)), images(5, 4)
    variables = scrambled(network, x)
    y = slow_conv(np.float64(x), np.float64(variables.params["conv1"]["kernel"]), 1)
    mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))  # biased: divided by 5 · 4 · 4
    feature, stats = network.apply(variables, x, True)
    old, new = variables.stats["norm1"], stats["norm1"]
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * var, rtol=1e-5)
    norm = {name: np.float64(value) for name, value in variables.params["norm1"].items()}
    expected = relu((y - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]).mean((1, 2))
    np.testing.assert_allclose(feature, expected, rtol=1e-4, atol=1e-5)


# --- initial values


def test_initial_values_are_the_stated_ones():
    variables = cnn(widths=(64, 128)).init(jax.random.key(0), images())
    kernel = variables.params["conv2"][
        "kernel"
    ]  # 73,728 draws: the standard deviation is known to 0.3 %
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.02)
    assert np.abs(kernel).max() > 3.5 * np.std(kernel)  # a normal that is not truncated
    for tree, ones, zeros in (
        (variables.params, "scale", "bias"),
        (variables.stats, "var", "mean"),
    ):
        np.testing.assert_array_equal(tree["norm1"][ones], np.ones(64))
        np.testing.assert_array_equal(tree["norm1"][zeros], np.zeros(64))


def test_linear_is_uniform_by_the_inputs_dimension():
    params = linear(500).init(jax.random.key(0), jnp.zeros((2, 16))).params
    for name, shape in (("kernel", (16, 500)), ("bias", (500,))):
        assert params[name].shape == shape
        assert np.abs(params[name]).max() <= 0.25  # 1/√16
        assert np.std(params[name]) == pytest.approx(0.25 / np.sqrt(3), rel=0.1)


# --- heads


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_linear_is_affine(dtype):
    head, x = linear(3, dtype=dtype), images().reshape(4, -1)[:, :7]
    variables = head.init(jax.random.key(0), x)
    logits, stats = head.apply(variables, x, True)
    dense = variables.params
    expected = np.float64(x) @ np.float64(dense["kernel"]) + np.float64(dense["bias"])
    assert logits.dtype == jnp.float32
    assert stats == variables.stats == {}
    np.testing.assert_allclose(logits, expected, atol=1e-5 if dtype == "float32" else 3e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_projector_ends_standardised(dtype):
    head, x = mlp((16, 6), dtype=dtype), images(64, 2).reshape(64, -1)
    variables = head.init(jax.random.key(0), x)
    y, stats = head.apply(variables, x, True)
    assert y.shape == (64, 6)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(np.mean(y, 0), 0, atol=1e-5)
    np.testing.assert_allclose(np.var(y, 0), 1, atol=1e-3)
    assert (
        count(variables.params) == 12 * 16 + 2 * 16 + 16 * 6
    )  # no bias before a norm, none in the last norm
    assert count(stats) == 2 * (16 + 6)


def test_predictor_forward_is_the_slow_one():
    head, x = mlp((5, 4), norm_last=False), images(8, 2).reshape(8, -1)
    variables = scrambled(head, x)
    assert count(variables.params) == 12 * 5 + 2 * 5 + 5 * 4 + 4
    y, _ = head.apply(variables, x, False)
    p = variables.params
    hidden = relu(Slow(*variables).norm(np.float64(x) @ np.float64(p["dense1"]["kernel"]), "norm1"))
    np.testing.assert_allclose(
        y,
        hidden @ np.float64(p["dense2"]["kernel"]) + np.float64(p["dense2"]["bias"]),
        rtol=1e-4,
        atol=1e-5,
    )


# --- mistakes


@pytest.mark.parametrize("name", ENCODERS)
def test_unknown_dtype_is_refused(name):
    with pytest.raises(
        UserError, match=r"^dtype must be .*'bfloat61'.*did you mean bfloat16.*float32"
    ):
        ENCODERS[name](dtype="bfloat61")


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "cnn"])
@pytest.mark.parametrize("width", [0, -8, 1.5])
def test_width_must_be_positive(name, width):
    with pytest.raises(UserError, match=rf"^width must be (an integer )?>= 1, got {width}"):
        ENCODERS[name](width=width)


@pytest.mark.parametrize("widths", [(), (8, 0), "8"])
@pytest.mark.parametrize("build", [lambda w: cnn(widths=w), mlp], ids=["cnn", "mlp"])
def test_widths_must_be_some_and_positive(build, widths):
    with pytest.raises(UserError, match=r"^widths must be one or more positive integers, got "):
        build(widths)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_unknown_stem_is_refused(name):
    with pytest.raises(UserError, match=r"^stem must .*'imagnet'.*did you mean imagenet.*cifar"):
        ENCODERS[name](stem="imagnet")


def test_heads_refuse_too():
    with pytest.raises(UserError, match=r"^classes must be >= 1, got 0"):
        linear(0)
    for build in (linear, lambda n, dtype: mlp((n,), dtype=dtype)):
        with pytest.raises(UserError, match=r"^dtype must be .*'float16'"):
            build(3, dtype="float16")


def test_float64_needs_x64_mode():
    with (
        jax.enable_x64(False),
        pytest.raises(UserError, match=r"^dtype must be .*float64.*JAX_ENABLE_X64"),
    ):
        cnn(dtype="float64")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("cnn", "float32"), ("cnn", "bfloat16"), ("resnet18", "float32"), ("wrn28_2", "bfloat16")],
)
def test_a_frozen_norm_within_its_convolution_says_the_same(name, dtype, monkeypatch):
    """Against norms that stand apart, as in training: to rounding, or as near to float32's."""
    monkeypatch.setattr(layers, "computed", lambda dtype: dtype)  # bfloat16 here, too
    monkeypatch.setattr(encoders, "computed", lambda dtype: dtype)
    small = {"widths": (4, 8)} if name == "cnn" else {"width": 4}
    network, exact = (ENCODERS[name](dtype=kind, **small) for kind in (dtype, "float32"))
    image = jax.random.normal(jax.random.key(0), (16, 8, 8, 3))
    variables = network.init(jax.random.key(1), image)
    for _ in range(20):  # statistics that are neither 0 nor 1
        variables = variables._replace(stats=exact.apply(variables, 2 * image + 1, True)[1])
    folded = network.apply(variables, image, False)[0]

    def apart(x, train, *sizes, name, norm):
        return layers.norm(layers.conv(x, *sizes, name=name), train, name=norm)

    with monkeypatch.context() as patch:
        patch.setattr(encoders, "normed", apart)
        plain, true = (net.apply(variables, image, False)[0] for net in (network, exact))
    if dtype == "float32":
        np.testing.assert_allclose(folded, true, rtol=1e-4, atol=1e-5)
    else:
        off, was = (float(jnp.linalg.norm(x - true)) for x in (folded, plain))
        assert off < 1.5 * was

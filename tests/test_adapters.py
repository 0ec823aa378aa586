"""A user's own Flax networks: what they become, that they train, and what is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same
from flax import nnx

from rmdnet_jax.errors import UserError
from rmdnet_jax.networks.adapters import adapt
from rmdnet_jax.networks.encoders import cnn
from rmdnet_jax.types import Variables

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(16, 6, 6, 2)), jnp.float32)


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Conv(5, (3, 3))(x)).mean((1, 2))


class Normed(nn.Module):
    flag: str = "train"

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(5, (3, 3), dtype=jnp.bfloat16)(x)
        return nn.relu(nn.BatchNorm(use_running_average=not train)(x)).mean((1, 2))


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, x, *, deterministic: bool = True):
        x = nn.BatchNorm(use_running_average=deterministic)(nn.Conv(5, (3, 3))(x))
        return nn.Dropout(0.0)(x.mean((1, 2)), deterministic)


class PlainNNX(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 5, (3, 3), rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.conv(x)).mean((1, 2))


class NormedNNX(nnx.Module):
    """Modes by attributes; a list, a shared layer, and an array that is no parameter."""

    def __init__(self, *, rngs, rate=0.0):
        self.layers = nnx.List([nnx.Conv(2, 5, (3, 3), rngs=rngs), nnx.Linear(5, 5, rngs=rngs)])
        self.again = self.layers[1]
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.shift = nnx.Variable(jnp.ones(5))

    def __call__(self, x):
        x = self.layers[1](self.norm(self.layers[0](x)))
        return self.again(self.dropout(nnx.relu(x))).mean((1, 2)) + self.shift[...]


class FlaggedNNX(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 5, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs)

    def __call__(self, x, train: bool):
        return self.norm(self.conv(x), use_running_average=not train).mean((1, 2))


NETWORKS = {  # what is given, and whether it has batch norm
    "linen": (Plain(), False),
    "linen with batch norm": (Normed(), True),
    "linen with deterministic=": (Deterministic(), True),
    "nnx class": (PlainNNX, False),
    "nnx class with batch norm": (NormedNNX, True),
    "nnx function": (lambda rngs: NormedNNX(rngs=rngs), True),
    "nnx with train=": (FlaggedNNX, True),
    "nnx module": (NormedNNX(rngs=nnx.Rngs(7)), True),
}
all_networks = pytest.mark.parametrize(("given", "normed"), NETWORKS.values(), ids=NETWORKS)


def plain_dicts(tree):
    return type(tree) is dict and all(
        type(name) is str and (isinstance(value, jax.Array) or plain_dicts(value))
        for name, value in tree.items()
    )


@all_networks
def test_its_arrays_are_nested_dicts_that_the_key_fixes(given, normed):
    network = adapt(given)
    first, again, other = (network.init(jax.random.key(seed), IMAGES) for seed in (0, 0, 1))
    assert all(plain_dicts(tree) for tree in first)
    assert_same(first, again)
    assert_same(first, jax.jit(network.init)(jax.random.key(0), IMAGES))
    different = [bool(np.any(a != b)) for a, b in zip(*map(jax.tree.leaves, (first, other)))]
    assert any(different) is not isinstance(given, nnx.Module), "a module's arrays are its own"


@all_networks
def test_training_moves_the_stats_and_evaluation_leaves_them(given, normed):
    network = adapt(given)
    apply = jax.jit(network.apply, static_argnums=2)
    variables = network.init(jax.random.key(0), IMAGES)
    trained, moved = apply(variables, IMAGES, True)
    found, kept = apply(variables, IMAGES, False)
    assert_same(kept, variables.stats)
    assert jax.tree.structure(moved) == jax.tree.structure(variables.stats)
    assert found.shape == (16, 5)
    assert found.dtype == trained.dtype == jnp.float32
    changed = [bool(np.any(a != b)) for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(kept))]
    assert any(changed) is normed
    assert bool(np.any(np.abs(trained - found) > 1e-3)) is normed
    alone, _ = apply(variables, IMAGES[3:4], False)
    np.testing.assert_allclose(alone, found[3:4], rtol=2e-2, atol=1e-3)  # one is in bfloat16


@all_networks
def test_it_learns_by_plain_sgd(given, normed):
    network, label = adapt(given), jnp.arange(16) % 5
    params, stats = network.init(jax.random.key(0), IMAGES)

    @jax.jit
    @jax.value_and_grad
    def loss(params, stats):
        logits, _ = network.apply(Variables(params, stats), IMAGES, True)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(16), label])

    values = []
    for _ in range(20):
        value, gradient = loss(params, stats)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        values.append(float(value))
    assert values[-1] < 0.99 * values[0]


def test_a_modules_own_arrays_are_the_first_ones():
    module = NormedNNX(rngs=nnx.Rngs(7))
    variables = adapt(module).init(jax.random.key(0), IMAGES)
    np.testing.assert_array_equal(
        variables.params["layers"]["0"]["kernel"], module.layers[0].kernel[...]
    )
    assert not module.norm.use_running_average, "its mode is left as it was"


def test_linen_is_what_flax_computes():
    found = adapt(Normed())
    variables = found.init(jax.random.key(3), IMAGES)
    tree = {"params": variables.params, "batch_stats": variables.stats}
    y, state = Normed().apply(tree, IMAGES, True, mutable=["batch_stats"])
    assert_same(found.apply(variables, IMAGES, True), (y.astype(jnp.float32), state["batch_stats"]))


def test_a_network_comes_back_as_it_is():
    network = cnn()
    assert adapt(network) is network


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dropout(0.5, deterministic=not train)(x.mean((1, 2)))


class Spatial(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(4, (3, 3))(x)


class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x.mean((1, 2)), x


class Unmoded(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(x).mean((1, 2))


class Masked(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        return x.mean((1, 2))


class Cached(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("cache", "seen", jnp.zeros, ())
        return x.mean((1, 2))


class Misfit(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x.reshape(-1, 7))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Dropping(), "draw no random numbers"),
        (lambda rngs: NormedNNX(rngs=rngs, rate=0.5), "draw no random numbers"),
        (Spatial(), r"give features \[batch, dim\].* \(2, 6, 6, 2\) got shape \(2, 6, 6, 4\)"),
        (Two(), r"give features \[batch, dim\].* got tuple"),
        (Unmoded(), "keep its batch statistics in evaluation"),
        (Masked(), r"be called as module\(x\) or module\(x, train\), got Masked\(x, mask\)"),
        (Cached(), "keep params and batch_stats only, got cache"),
        (Misfit(), r"run on images of shape \(2, 6, 6, 2\), got: .*reshape"),
        (Plain, r"be a module, got the class: write Plain\(\.\.\.\)"),
        (lambda: PlainNNX(nnx.Rngs(0)), "make a module from rngs, got: .*argument"),
        (lambda rngs: 3, "be a Flax module, .* got one that gives int"),
        ("resnet18", "be a Flax module .* got str"),
        (None, "be a Flax module .* got NoneType"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(given, message):
    with pytest.raises(UserError, match=f"^encoder must {message}") as caught:
        adapt(given).init(jax.random.key(0), IMAGES)
    assert "\n" not in str(caught.value)

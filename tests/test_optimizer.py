"""Optimisers against the update written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmdnet_jax.errors import UserError
from rmdnet_jax.training.optimizer import OPTIMIZERS, adamw, sgd

pytestmark = pytest.mark.usefixtures("x64")
KERNEL, BIAS = np.array([[1.0, -2.0], [0.5, 3.0]]), np.array([0.3, -0.7])


def gradient(step):
    return {
        "kernel": np.sin(step + np.arange(4.0)).reshape(2, 2),
        "bias": np.cos(step + np.arange(2.0)),
    }


def run(optimizer, steps):
    params = {"head": {"kernel": jnp.asarray(KERNEL), "bias": jnp.asarray(BIAS)}}
    state = optimizer.transform.init(params)
    for step in range(steps):
        updates, state = optimizer.transform.update(
            {"head": jax.tree.map(jnp.asarray, gradient(step))}, state, params
        )
        params = jax.tree.map(lambda p, u: p + u, params, updates)
    return params["head"]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", ["all", "kernels"])
def test_sgd_adds_decay_to_the_gradient_before_momentum(nesterov, decay):
    found = run(
        sgd(
            4,
            2,
            learning_rate=0.1,
            weight_decay=0.01,
            decay=decay,
            nesterov=nesterov,
            schedule="constant",
        ),
        5,
    )
    for name, value in (("kernel", KERNEL), ("bias", BIAS)):
        value, trace = value.copy(), 0.0
        for step in range(5):
            g = gradient(step)[name] + (0.01 * value if decay == "all" or name == "kernel" else 0.0)
            trace = 0.9 * trace + g
            value -= 0.1 * (g + 0.9 * trace if nesterov else trace)
        np.testing.assert_allclose(found[name], value, rtol=1e-12)


def test_adamw_decays_beside_the_adaptive_step():
    found = run(adamw(4, 2, learning_rate=0.1, weight_decay=0.02, schedule="constant"), 5)
    for name, value, decay in (("kernel", KERNEL, 0.02), ("bias", BIAS, 0.0)):
        value, m, v = value.copy(), 0.0, 0.0
        for step in range(5):
            g = gradient(step)[name]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            adapted = m / (1 - 0.9 ** (step + 1)) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
            value -= 0.1 * (adapted + decay * value)
        np.testing.assert_allclose(found[name], value, rtol=1e-9)


def test_clipping_bounds_the_global_norm():
    found = run(
        sgd(
            4,
            2,
            learning_rate=1.0,
            momentum=0.0,
            weight_decay=0.0,
            schedule="constant",
            clip_norm=0.5,
        ),
        1,
    )
    moved = np.concatenate([(found["kernel"] - KERNEL).ravel(), found["bias"] - BIAS])
    whole = np.concatenate([g.ravel() for g in gradient(0).values()])
    np.testing.assert_allclose(moved, -0.5 * whole / np.linalg.norm(whole), rtol=1e-9)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_schedules_follow_their_formulas(make):
    rate = make(10, 20, learning_rate=2.0, schedule="cosine", warmup_epochs=2.0).learning_rate
    np.testing.assert_allclose([rate(0), rate(10), rate(20)], [0.0, 1.0, 2.0], atol=1e-7)
    np.testing.assert_allclose(rate(110), 1.0 + np.cos(np.pi * 90 / 180), rtol=1e-6)
    np.testing.assert_allclose(rate(200), 0.0, atol=1e-6)
    rate = make(
        10, 20, learning_rate=2.0, schedule="step", milestones=(10, 15), factor=0.1
    ).learning_rate
    np.testing.assert_allclose(
        [rate(99), rate(101), rate(149), rate(151)], [2.0, 0.2, 0.2, 0.02], rtol=1e-6
    )


def test_a_fixed_entry_keeps_its_rate_while_the_others_decay():
    optimizer = sgd(1, 10, learning_rate=0.1, momentum=0.0, weight_decay=0.0, fixed="predictor")
    params = {"encoder": jnp.ones(3), "predictor": {"kernel": jnp.ones(3)}}
    state, moved = optimizer.transform.init(params), []
    for _ in range(10):
        updates, state = optimizer.transform.update(
            jax.tree.map(jnp.ones_like, params), state, params
        )
        moved.append((float(updates["encoder"][0]), float(updates["predictor"]["kernel"][0])))
    np.testing.assert_allclose([m[1] for m in moved], -0.1, rtol=1e-9)
    np.testing.assert_allclose(
        [m[0] for m in moved], [-0.05 * (1 + np.cos(np.pi * i / 10)) for i in range(10)], rtol=1e-6
    )


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be > 0"),
        (
            {"schedule": "linear"},
            "schedule must be one of .* got 'linear'.* constant, cosine, step",
        ),
        ({"warmup_epochs": 3.0}, r"warmup_epochs must be in \[0, 2\]"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0"),
        ({"decay": "none"}, "decay must be one of .* got 'none'.* all, kernels"),
        ({"clip_norm": -1.0}, "clip_norm must be >= 0"),
        ({"clip_norm": float("nan")}, "clip_norm must be >= 0"),
        ({"factor": -1.0}, "factor must be > 0"),
        ({"milestones": (3, -1)}, "milestones must be >= 0, got -1"),
    ],
)
def test_bad_values_are_refused(make, fields, message):
    with pytest.raises(UserError, match="^" + message):
        make(4, 2, **fields)


@pytest.mark.parametrize(("make", "name"), [(sgd, "momentum"), (adamw, "b1"), (adamw, "b2")])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_decay_rates_are_in_their_range(make, name, value):
    with pytest.raises(UserError, match=rf"^{name} must be in \[0, 1\), got {value}"):
        make(4, 2, **{name: value})


def test_a_fixed_entry_is_each_peers():
    one = {"encoder": jnp.ones(3), "head": jnp.ones(3)}
    optimizer, params = (
        sgd(1, 10, learning_rate=0.1, momentum=0.0, weight_decay=0.0, fixed="head"),
        (one, one),
    )
    state = optimizer.transform.init(params)
    for _ in range(3):
        updates, state = optimizer.transform.update(
            jax.tree.map(jnp.ones_like, params), state, params
        )
    for peer in updates:
        np.testing.assert_allclose(peer["head"], -0.1, rtol=1e-6)
        np.testing.assert_allclose(peer["encoder"], -0.05 * (1 + np.cos(np.pi * 2 / 10)), rtol=1e-6)


def test_a_fixed_entry_that_is_not_there_is_refused():
    with pytest.raises(UserError, match=r"^fixed must name one of head"):
        run(sgd(4, 2, fixed="predictor"), 1)

"""Base methods: losses against NumPy in float64, what they remember, what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from rmdnet_jax import evaluation, experiment, losses
from rmdnet_jax.config import choose
from rmdnet_jax.methods import METHODS
from rmdnet_jax.types import Batch, Outputs, UserError

LOGITS = np.random.default_rng(0).normal(size=(6, 4)) * 3
LABEL = np.array([0, 3, 1, 1, 2, 0])
P = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
RIGHT = P[np.arange(6), LABEL]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("criterion", "slow"),
    [
        (losses.cross_entropy, -np.log(RIGHT)),
        (lambda z, y: losses.generalized_cross_entropy(z, y, 0.7), (1 - RIGHT**0.7) / 0.7),
        (lambda z, y: losses.generalized_cross_entropy(z, y, 1.0), 1 - RIGHT),
        (
            lambda z, y: losses.symmetric_cross_entropy(z, y, 0.3, 2.0),
            -0.3 * np.log(RIGHT) - 2.0 * (P * np.log(np.clip(np.eye(4)[LABEL], 1e-4, 1))).sum(1),
        ),
    ],
    ids=["ce", "gce", "gce q=1", "sce"],
)
def test_criteria_are_the_slow_ones(criterion, slow):
    np.testing.assert_allclose(criterion(jnp.asarray(LOGITS), jnp.asarray(LABEL)), slow, rtol=1e-10)


@pytest.mark.parametrize("name", ["gce", "sce"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_robust_losses_have_finite_gradients_on_sure_mistakes(name, scale):
    method = METHODS[name](6, 4)
    batch = Batch(None, jnp.asarray(LABEL), jnp.arange(6))

    def loss(logits):
        return method.loss((Outputs(None, logits[None]),), batch, (), None, None, 0.0)[0]

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(LOGITS * scale, jnp.float32))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.usefixtures("x64")
def test_elr_is_the_slow_one_over_two_steps_and_keeps_other_rows():
    method = METHODS["elr"](9, 4, weight=2.0, momentum=0.6)
    memory, slow_memory = method.init(), np.zeros((9, 4))
    index = np.array([8, 2, 3, 0, 7, 5])
    for shift in (0.0, 0.5):
        logits = LOGITS + shift * np.arange(4)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        clipped = np.clip(p, 1e-4, 1 - 1e-4)
        slow_memory[index] = 0.6 * slow_memory[index] + 0.4 * clipped / clipped.sum(1, keepdims=True)
        slow = -np.log(p[np.arange(6), LABEL]).mean() + 2.0 * np.log(1 - (slow_memory[index] * clipped).sum(1)).mean()
        batch = Batch(None, jnp.asarray(LABEL), jnp.asarray(index))
        value, memory, _ = method.loss((Outputs(None, jnp.asarray(logits)[None]),), batch, memory, None, None, 0.0)
        np.testing.assert_allclose(value, slow, rtol=1e-10)
        np.testing.assert_allclose(memory, slow_memory, rtol=1e-10)
    assert not np.any(memory[np.array([1, 4, 6])])


OTHER = np.random.default_rng(1).normal(size=(6, 4)) * 2


def peers_loss(method, epoch, memory=None):
    outputs = tuple(Outputs(None, jnp.asarray(z)[None]) for z in (LOGITS, OTHER))
    batch = Batch(None, jnp.asarray(LABEL), jnp.arange(6))
    value, _, metrics = method.loss(outputs, batch, method.init() if memory is None else memory, None, None, epoch)
    return value, metrics


def slow_ce(logits):
    return -np.log(np.exp(logits)[np.arange(6), LABEL] / np.exp(logits).sum(1))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("epoch", "kept"), [(0.0, 6), (5.0, 4), (10.0, 3), (50.0, 3)])
def test_co_teaching_learns_what_is_easy_for_the_other(epoch, kept):
    one, two = slow_ce(LOGITS), slow_ce(OTHER)
    slow = one[np.argsort(two)[:kept]].mean() + two[np.argsort(one)[:kept]].mean()
    value, metrics = peers_loss(METHODS["co_teaching"](6, 4, rate="0.5", ramp_epochs=10.0), epoch)
    np.testing.assert_allclose(value, slow, rtol=1e-6)  # the rate, and so the weights, are float32
    assert float(metrics["noise_rate"]) == 0.5


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("epoch", "kept"), [(0.0, 6), (10.0, 2)])
def test_jocor_learns_what_is_easy_for_both_and_agreed_on(epoch, kept):
    p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (LOGITS, OTHER))
    joint = 0.2 * (slow_ce(LOGITS) + slow_ce(OTHER)) + 0.8 * ((p * np.log(p / q)).sum(1) + (q * np.log(q / p)).sum(1))
    value, _ = peers_loss(METHODS["jocor"](6, 4, agreement=0.8, rate="0.6"), epoch)
    np.testing.assert_allclose(value, np.sort(joint)[:kept].mean(), rtol=1e-6)


@pytest.mark.parametrize("name", ["co_teaching", "jocor"])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.95])
def test_the_noise_rate_is_estimated_from_the_losses(name, rate):
    """Predictions are right and sure; so the wrong labels are those of high loss. All wrong or none: still a number in [0, 1]."""
    method, generator = METHODS[name](400, 5), np.random.default_rng(0)
    clean = np.arange(400) % 5
    given = np.where(np.arange(400) < 400 * rate, (clean + 1) % 5, clean)
    logits = 4 * np.eye(5)[clean] + generator.normal(size=(2, 400, 5)) / 2
    memory = method.refresh(lambda: logits, given, method.init(), 1)
    assert 0 <= memory <= 1
    if 0 < rate < 0.9:
        assert memory == pytest.approx(rate, abs=0.03)
    assert method.refresh(lambda: pytest.fail("the ramp is over"), given, memory, 11) == memory
    assert np.isfinite(peers_loss(method, 10.0, jnp.float32(memory))[0]), "one example at least is kept"


def test_equal_losses_are_one_component():
    assert evaluation.small_loss_probability(np.full(7, 0.3)).tolist() == [1.0] * 7


def test_a_run_tells_the_rate_that_it_used(tmp_path):
    config = tiny(**{"relation_guided.method": choose(METHODS, "co_teaching"), "relation_guided.weight": 0.0})
    summary = experiment.run(config, tmp_path)
    used = summary["relation_guided"]["noise_rate"]
    assert 0 < used["used"] < 1
    assert used["error"] == pytest.approx(used["used"] - summary["noise"]["rate"], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("co_teaching", "rate", "many"),
        ("co_teaching", "rate", "1.0"),
        ("jocor", "ramp_epochs", 0.0),
        ("jocor", "agreement", 2.0),
        ("gce", "q", 0.0),
        ("gce", "q", 1.5),
        ("sce", "alpha", -1.0),
        ("elr", "momentum", 1.0),
        ("elr", "weight", -1.0),
    ],
)
def test_bad_values_are_refused(name, field, value):
    with pytest.raises(UserError, match=rf"relation_guided\.method\.{field} must be .* got"):
        METHODS[name](6, 4, **{field: value})

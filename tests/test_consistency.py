"""Consistency: the averaged network's sure predictions teach a strongly augmented view."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_training import begin, made_of, stage_of

from rmdnet_jax import experiment as run
from rmdnet_jax.app.presets import digits
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.errors import UserError
from rmdnet_jax.methods import METHODS, consistency
from rmdnet_jax.training import steps
from rmdnet_jax.types import Batch, Outputs, Variables

LABEL = np.array([0, 1, 2, 3, 0, 1])


def softmax(z):
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def slow(p, share, threshold, temperature, balance, strong):
    """The term, the share of sure examples, and the classes' next shares."""
    share = [0.99 * s + 0.01 * p[:, c].mean() for c, s in enumerate(share)]
    total, sure = 0.0, 0
    for row, logits in zip(p, strong):
        said = row.argmax()
        if row[said] > threshold * (share[said] / max(share)) ** balance:
            target = row ** (1 / temperature) / np.sum(row ** (1 / temperature))
            total -= np.sum(target * np.log(softmax(logits)))
            sure += 1
    return total / len(p), sure / len(p), share


@pytest.mark.parametrize("name", ["ce", "gce", "sce", "elr"])
@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_the_term_is_that_of_a_slow_loop(name, balance):
    settings = {"threshold": 0.6, "temperature": 0.5, "balance": balance}
    plain = METHODS[name](6, 4)
    method = consistency(plain, 4, weight=3.0, **settings)
    weak, strong, averaged = np.random.default_rng(5).normal(size=(3, 6, 4)) * 2
    averaged[0] = 0.1, 0, 0, 0  # undecided, for the most frequent class
    averaged[1] = 0, 9, 0, 0
    feature = jnp.zeros((2, 6, 5))
    outputs = (Outputs(feature, jnp.asarray(np.stack([weak, strong]), jnp.float32)),)
    batch = Batch(
        jnp.zeros((2, 6, 2, 2, 1)), jnp.asarray(LABEL), jnp.arange(6), None,
        jnp.asarray(averaged, jnp.float32),
    )  # fmt: skip
    own, _ = method.init()
    share = np.array([[0.7, 0.1, 0.1, 0.1]], np.float32)
    value, (after, shares), told = method.loss(outputs, batch, (own, share), None, None, 0.0)
    alone = (Outputs(feature[:1], jnp.asarray(weak, jnp.float32)[None]),)
    base, base_after, _ = plain.loss(
        alone, batch._replace(image=batch.image[:1]), own, None, None, 0.0
    )
    term, sure, expected = slow(softmax(averaged), share[0], **settings, strong=strong)
    np.testing.assert_allclose(value, base + 3 * term, rtol=1e-5)
    np.testing.assert_allclose(told["sure"], sure)
    np.testing.assert_allclose(shares[0], expected, rtol=1e-5)
    assert 0 < sure < 1  # so that the threshold is seen at work
    for one, two in zip(jax.tree.leaves(after), jax.tree.leaves(base_after)):
        np.testing.assert_array_equal(one, two)


def test_weight_zero_is_the_method_itself():
    method = METHODS["ce"](6, 4)
    assert consistency(method, 4) is method


@pytest.mark.parametrize("name", ["co_teaching", "jocor", "dividemix"])
def test_it_is_refused_for_methods_that_select(name):
    with pytest.raises(UserError, match=r"^weight must be 0 but for .*ce, gce, sce, elr.* got 1"):
        consistency(METHODS[name](6, 4), 4, weight=1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("weight", -1.0), ("threshold", 1.0), ("temperature", 0.0), ("balance", 2.0)],
)
def test_values_that_cannot_be_are_refused(field, value):
    with pytest.raises(UserError, match=rf"^{field} must be"):
        consistency(METHODS["ce"](6, 4), 4, **{"weight": 1.0, field: value})


def config(**values):
    return run(digits(), **{"relation_guided.consistency.weight": 1.0, **values})


def test_it_learns_from_an_average_unless_there_is_none():
    assert resolve(digits()).relation_guided.average == 0
    assert resolve(config()).relation_guided.average == 0.99
    kept = resolve(config(**{"relation_guided.average": 0.9}))
    assert kept.relation_guided.average == 0.9
    for value, message in ((0.0, "be > 0 where consistency"), ("much", "be 'auto' or a number")):
        with pytest.raises(UserError, match=rf"^relation_guided\.average must {message}"):
            resolve(config(**{"relation_guided.average": value}))


def test_the_averaged_network_sees_the_mild_view_and_the_student_both(tmp_path):
    made = made_of(tmp_path, **{
        "relation_guided.weight": 0.0, "relation_guided.consistency.weight": 1.0,
        "relation_guided.augmentation.name": "none", "relation_guided.strong.name": "cutout",
    })  # fmt: skip
    stage = stage_of(made)
    state = begin(stage)
    rows = stage.pipeline.batch(0)
    average = jax.tree.map(lambda x: 0.5 * x, state.average)
    variables = Variables(average, state.variables.stats)
    batch = steps._batch(stage, variables, rows, stage.key)
    plain = np.asarray(rows.image, np.float32) / 255
    mean, std = made.statistics
    np.testing.assert_allclose(batch.image[0], (plain - mean) / std, atol=1e-5)
    grey = (np.asarray(batch.image[1]) * std + mean - 0.5).__abs__() < 1e-5
    assert grey.all(-1).mean((1, 2)).min() > 0  # each image has its square
    expected = made.predict(variables, np.asarray(rows.image)).logits
    np.testing.assert_allclose(batch.averaged, expected, atol=1e-4)


def test_the_first_step_of_a_stage_does_what_the_method_says(tmp_path):
    made = made_of(tmp_path, **{
        "relation_guided.weight": 0.0, "relation_guided.consistency.weight": 1.0,
        "relation_guided.consistency.threshold": 0.0,
    })  # fmt: skip
    stage = stage_of(made)
    state, value = steps.step(
        stage, begin(stage), stage.objective.frozen, stage.pipeline.batch(0), stage.key
    )
    assert state.totals["sure"] == 1
    assert state.totals["consistency"] > 0
    assert state.totals["consistency"] < value

"""Base methods: losses against NumPy in float64, what they remember, what they refuse."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from rmdnet_jax import evaluation, losses
from rmdnet_jax.app import correct, experiment
from rmdnet_jax.app.arms import Arm
from rmdnet_jax.errors import UserError
from rmdnet_jax.methods import METHODS, mixup
from rmdnet_jax.methods.mixup import mixed
from rmdnet_jax.types import Batch, Outputs

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
        slow_memory[index] = 0.6 * slow_memory[index] + 0.4 * clipped / clipped.sum(
            1, keepdims=True
        )
        slow = (
            -np.log(p[np.arange(6), LABEL]).mean()
            + 2.0 * np.log(1 - (slow_memory[index] * clipped).sum(1)).mean()
        )
        batch = Batch(None, jnp.asarray(LABEL), jnp.asarray(index))
        value, memory, _ = method.loss(
            (Outputs(None, jnp.asarray(logits)[None]),), batch, memory, None, None, 0.0
        )
        np.testing.assert_allclose(value, slow, rtol=1e-10)
        np.testing.assert_allclose(memory, slow_memory, rtol=1e-10)
    assert not np.any(memory[np.array([1, 4, 6])])


OTHER = np.random.default_rng(1).normal(size=(6, 4)) * 2


def peers_loss(method, epoch, memory=None):
    outputs = tuple(Outputs(None, jnp.asarray(z)[None]) for z in (LOGITS, OTHER))
    batch = Batch(None, jnp.asarray(LABEL), jnp.arange(6))
    value, _, metrics = method.loss(
        outputs, batch, method.init() if memory is None else memory, None, None, epoch
    )
    return value, metrics


def slow_ce(logits):
    return -np.log(np.exp(logits)[np.arange(6), LABEL] / np.exp(logits).sum(1))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("epoch", "kept"), [(0.0, 6), (5.0, 4), (10.0, 3), (50.0, 3)])
@pytest.mark.parametrize("rate", [0.5, "0.5"], ids=["number", "text"])
def test_co_teaching_learns_what_is_easy_for_the_other(epoch, kept, rate):
    one, two = slow_ce(LOGITS), slow_ce(OTHER)
    slow = one[np.argsort(two)[:kept]].mean() + two[np.argsort(one)[:kept]].mean()
    value, metrics = peers_loss(METHODS["co_teaching"](6, 4, rate=rate, ramp_epochs=10.0), epoch)
    np.testing.assert_allclose(value, slow, rtol=1e-6)  # the rate, and so the weights, are float32
    assert float(metrics["noise_rate"]) == 0.5


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("epoch", "kept"), [(0.0, 6), (10.0, 2)])
def test_jocor_learns_what_is_easy_for_both_and_agreed_on(epoch, kept):
    p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (LOGITS, OTHER))
    joint = 0.2 * (slow_ce(LOGITS) + slow_ce(OTHER)) + 0.8 * (
        (p * np.log(p / q)).sum(1) + (q * np.log(q / p)).sum(1)
    )
    value, _ = peers_loss(METHODS["jocor"](6, 4, agreement=0.8, rate="0.6"), epoch)
    np.testing.assert_allclose(value, np.sort(joint)[:kept].mean(), rtol=1e-6)


@pytest.mark.parametrize("name", ["co_teaching", "jocor"])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.95])
def test_the_noise_rate_is_estimated_from_the_losses(name, rate):
    """Predictions are right and sure, so wrong labels have high loss; in any case it is a rate."""
    method, generator = METHODS[name](400, 5), np.random.default_rng(0)
    clean = np.arange(400) % 5
    given = np.where(np.arange(400) < 400 * rate, (clean + 1) % 5, clean)
    logits = 4 * np.eye(5)[clean] + generator.normal(size=(2, 400, 5)) / 2
    memory = method.refresh(lambda: Outputs(None, logits), given, np.arange(400), method.init(), 1)
    assert 0 <= memory <= 1
    if 0 < rate < 0.9:
        assert memory == pytest.approx(rate, abs=0.03)
    assert (
        method.refresh(lambda: pytest.fail("the ramp is over"), given, np.arange(400), memory, 11)
        == memory
    )
    assert np.isfinite(peers_loss(method, 10.0, jnp.float32(memory))[0]), (
        "one example at least is kept"
    )


def test_equal_losses_are_one_component():
    assert evaluation.small_loss_probability(np.full(7, 0.3)).tolist() == [1.0] * 7


def test_a_run_tells_the_rate_that_it_used(tmp_path):
    summary = experiment.run(tiny(method="co_teaching", weight=0.0), tmp_path).summary
    used = summary["relation_guided"]["noise_rate"]
    assert used["source"] == "estimate"
    assert 0 < used["used"] < 1
    assert used["error"] == pytest.approx(used["used"] - summary["noise"]["rate"], abs=1e-6)


def test_the_rate_is_held_against_the_labels_that_are_learnt(tmp_path):
    # Whatever the graph of this teacher is worth.
    use = {"noise.rate": 0.4, "relation_guided.propagation.in_doubt": "use"}
    config = tiny(method="co_teaching", targets="propagated", **use)
    guided = experiment.run(config, tmp_path).summary["relation_guided"]
    wrong = 1 - guided["propagation"]["right"]
    assert guided["propagation"]["changed"] > 0.1
    assert guided["noise_rate"]["error"] == pytest.approx(
        guided["noise_rate"]["used"] - wrong, abs=1e-6
    )


def by_graph(method, **values):
    return tiny(method=method, **{"relation_guided.method.rate": "graph", **values})


@pytest.mark.parametrize("method", ["co_teaching", "dividemix"])
def test_the_graphs_rate_is_the_number_that_it_tells(method, tmp_path):
    """The method alone, which needs a teacher now; as if somebody had given the number."""
    long = {"epochs": 4, "weight": 0.0}
    found = experiment.run(by_graph(method, **long), tmp_path / "graph").summary
    rate = found["relation_guided"]["noise_rate"]
    with np.load(tmp_path / "graph" / "propagated.npz") as file:
        about = json.loads(str(file["about"]))
    for name, key in (("used", "noise_rate"), ("low", "noise_low"), ("high", "noise_high")):
        assert rate[name] == pytest.approx(about[key], abs=1e-12)
    assert rate["used"] > 0
    assert rate["source"] == "graph"
    assert rate["in_doubt"] == about["in_doubt"]
    assert rate["error"] == pytest.approx(rate["used"] - found["noise"]["rate"])
    assert not (tmp_path / "graph" / "suspects.csv").exists(), "no label was changed"
    given = tiny(method=method, **long, **{"relation_guided.method.rate": rate["used"]})
    experiment.run(given, tmp_path / "number")
    one, two = (records(tmp_path / name) for name in ("graph", "number"))
    assert one == two
    assert one[-1]["noise_rate"] == pytest.approx(rate["used"], rel=1e-6)


def records(workdir):
    """What the student's epochs were worth."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found = [r for r in map(json.loads, lines) if r["stage"] == "relation_guided"]
    assert found
    return found


def test_a_run_goes_on_with_the_rate_that_it_has_found(tmp_path, monkeypatch):
    whole = experiment.run(by_graph("jocor"), tmp_path).summary["relation_guided"]
    before = records(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "relation_guided")
    (tmp_path / "summary.json").unlink()
    monkeypatch.setattr("rmdnet_jax.relations.propagation.propagate", None)
    again = experiment.run(by_graph("jocor"), tmp_path).summary["relation_guided"]
    assert again["noise_rate"] == whole["noise_rate"]
    assert records(tmp_path) == before


def test_each_arm_has_the_rate_of_the_labels_that_it_learns(tmp_path):
    use = {"noise.rate": 0.4, "relation_guided.propagation.in_doubt": "use"}
    config = by_graph("co_teaching", controls=("base", "propagation"), **use)
    found = experiment.run(config, tmp_path).summary
    controls, own = found["controls"], found["relation_guided"]["noise_rate"]
    assert controls["base"]["noise_rate"] == own
    left = controls["propagation"]["noise_rate"]
    about = controls["propagation"]["propagation"]
    assert left["used"] == about["wrong"]["propagated"] < own["used"]
    assert left["error"] == pytest.approx(left["used"] - (1 - about["right"]))
    assert (tmp_path / "suspects.csv").exists()


def test_what_is_left_wrong_is_as_sure_as_what_was():
    summary = {
        "noise_rate": 0.4, "noise_low": 0.3, "noise_high": 0.45, "in_doubt": True,
        "wrong": {"given": 0.375, "propagated": 0.05},
    }  # fmt: skip
    found = correct.Corrected(np.eye(2), summary, np.eye(2))
    one, two = (correct.rate(found, Arm("base", targets=y)) for y in ("given", "propagated"))
    close = functools.partial(pytest.approx, abs=1e-12)
    assert (one["used"], one["low"], one["high"]) == close((0.375, 0.275, 0.425))
    assert (two["used"], two["low"], two["high"]) == close((0.05, 0.0, 0.1))
    belief = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    certain = np.array([False, True, False, False])
    wrong = correct._wrong(belief, np.array([0, 1, 0, 0]), certain)
    assert wrong == close((0.1 + 0.0 + 0.8 + 0.3) / 4)


def test_a_rate_in_a_call_of_your_own_is_a_number():
    with pytest.raises(UserError, match=r"^rate must be a number outside of a run, got 'graph'"):
        METHODS["jocor"](6, 4, rate="graph")
    with pytest.raises(UserError, match=r"^threshold must be in \[0, 1\), got 1"):
        METHODS["dividemix"](6, 4, rate=0.5, threshold=1.0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "criterion",
    [losses.cross_entropy, lambda z, y: losses.generalized_cross_entropy(z, y, 0.7)],
    ids=["ce", "gce"],
)
def test_a_soft_target_is_the_mean_over_labels_drawn_from_it(criterion):
    logits, target = jnp.asarray(LOGITS), np.random.default_rng(2).dirichlet(np.ones(4), 6)
    each = np.stack([criterion(logits, jnp.full(6, c)) for c in range(4)], axis=1)
    np.testing.assert_allclose(
        losses.expected(criterion, logits, jnp.asarray(target)), (target * each).sum(1), rtol=1e-12
    )
    hard = losses.expected(criterion, logits, jnp.eye(4)[LABEL])
    np.testing.assert_allclose(
        hard, losses.expected(criterion, logits, jnp.asarray(LABEL)), rtol=1e-12
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_soft_targets(name):
    """One-hot targets are the labels themselves."""
    method = METHODS[name](6, 4)
    outputs = tuple(
        Outputs(None, jnp.asarray(z, jnp.float32)[None].repeat(method.views, 0))
        for z in (LOGITS, OTHER)[: method.peers]
    )
    image = jnp.zeros((method.views, 6, 2, 2, 1))
    for epoch in (0.0, 50.0):
        given, soft = (
            method.loss(
                outputs,
                Batch(image, y, jnp.arange(6)),
                method.init(),
                lambda images: outputs,
                jax.random.key(0),
                epoch,
            )[0]
            for y in (jnp.asarray(LABEL), jnp.eye(4)[LABEL])
        )
        np.testing.assert_allclose(given, soft, rtol=1e-5)


def test_mixed_images_lie_between_two_and_their_targets_likewise():
    image = jnp.eye(8).reshape(2, 4, 8)  # each image of each view is a direction of its own
    target = jnp.eye(4)
    for seed in range(5):
        x, y = (
            np.asarray(a).reshape(8, -1) for a in mixed(jax.random.key(seed), 0.5, image, target)
        )
        share = max(x.max(1)[(x > 0).sum(1) == 2], default=1.0)
        assert share >= 0.5
        for i in range(8):
            j = next((k for k in np.flatnonzero(x[i]) if k != i), i)
            np.testing.assert_allclose(
                x[i], share * np.eye(8)[i] + (1 - share) * np.eye(8)[j], atol=1e-6
            )
            np.testing.assert_allclose(
                y[i], share * np.eye(4)[i % 4] + (1 - share) * np.eye(4)[j % 4], atol=1e-6
            )


WEIGHTS = np.random.default_rng(3).normal(size=(2, 12, 4))


def network(images):
    """Two linear networks on flattened images."""
    return tuple(
        Outputs(None, x.reshape(*x.shape[:2], -1) @ jnp.asarray(w)) for x, w in zip(images, WEIGHTS)
    )


def softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


@pytest.mark.usefixtures("x64")
def test_dividemix_is_the_slow_one():
    """Three of six labels are likely right for peer 0, two for peer 1; half of the ramp."""
    image = np.random.default_rng(4).normal(size=(2, 6, 2, 2, 3))
    clean = np.array([[0.9, 0.2, 0.8, 0.6, 0.1, 0.0], [0.3, 0.4, 1.0, 0.2, 0.7, 0.5]])
    method = METHODS["dividemix"](8, 4, unlabelled_weight=10.0, confidence_penalty=2.0)
    key, index = jax.random.key(5), np.array([7, 1, 0, 3, 5, 2])
    memory = np.ones((8, 2))
    memory[index] = clean.T
    both = jnp.stack([image] * 2)
    outputs = network(both)
    p = [softmax(np.asarray(o.logits)).mean(0) for o in outputs]
    total, guesses = 0.0, []
    for k in range(2):
        w = clean[k][:, None]
        target = np.where(w > 0.5, w * np.eye(4)[LABEL] + (1 - w) * p[k], (p[0] + p[1]) / 2) ** 2
        target /= target.sum(1, keepdims=True)
        x, y = mixed(jax.random.fold_in(key, k), 4.0, jnp.asarray(image), jnp.asarray(target))
        q, y = softmax(np.asarray(x).reshape(12, -1) @ WEIGHTS[k]), np.asarray(y).reshape(12, 4)
        labelled = np.tile(clean[k] > 0.5, 2)
        guesses.append(((q - y) ** 2)[~labelled].mean())
        spread = (0.25 * np.log(0.25 / q.mean(0))).sum()
        total += (
            -(y * np.log(q)).sum(1)[labelled].mean() + 10.0 * (18 - 10) / 16 * guesses[-1] + spread
        )
    batch = Batch(jnp.asarray(image), jnp.asarray(LABEL), jnp.asarray(index))
    value, after, metrics = method.loss(outputs, batch, jnp.asarray(memory), network, key, 18.0)
    np.testing.assert_allclose(value, total, rtol=1e-6)  # the share of the mixture is float32
    np.testing.assert_allclose(metrics["unlabelled_loss"], np.mean(guesses), rtol=1e-6)
    np.testing.assert_array_equal(after, memory)
    warm, *_ = method.loss(outputs, batch, jnp.asarray(memory), network, key, 9.9)
    first = [softmax(np.asarray(o.logits[0])) for o in outputs]
    penalty = sum(2.0 * (q * np.log(q)).sum(1).mean() for q in first)
    np.testing.assert_allclose(
        warm, sum(slow_ce(np.asarray(o.logits[0])).mean() for o in outputs) + penalty, rtol=1e-6
    )


@pytest.mark.parametrize("clean", [0.0, 1.0])
def test_dividemix_stands_an_empty_part(clean):
    """All labels likely right, or none; gradients are finite either way."""
    method = METHODS["dividemix"](6, 4)
    image = jnp.asarray(np.random.default_rng(4).normal(size=(2, 6, 2, 2, 3)), jnp.float32)
    batch = Batch(image, jnp.asarray(LABEL), jnp.arange(6))

    def loss(w):
        def forward(images):
            return tuple(Outputs(None, x.reshape(2, 6, -1) @ v) for x, v in zip(images, w))

        return method.loss(
            forward([image] * 2), batch, jnp.full((6, 2), clean), forward, jax.random.key(0), 30.0
        )[0]

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(WEIGHTS, jnp.float32))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert np.any(gradient)


@pytest.mark.parametrize("rate", [0.0, 0.4, 0.95])
@pytest.mark.parametrize("classes", [2, 5])
def test_dividemix_peers_part_the_examples_for_each_other(rate, classes):
    """Peer 1 sees what is wrong, peer 0 nothing: so peer 0 is told. Other rows keep their 1."""
    method, n = METHODS["dividemix"](400, classes), 300
    clean, index = np.arange(n) % classes, np.arange(400)[::-1][:n]
    given = np.where(np.arange(n) < n * rate, (clean + 1) % classes, clean)
    logits = np.stack(
        [np.zeros((n, classes)), 4 * np.eye(classes)[clean]]
    ) + 0.1 * np.random.default_rng(0).normal(size=(2, n, classes))
    memory = method.refresh(lambda: Outputs(None, logits), given, index, method.init(), 10)
    assert np.all((memory >= 0) & (memory <= 1))
    assert np.all(memory[:100] == 1)
    if rate == 0.4:
        assert np.mean((memory[index, 0] > 0.5) == (given == clean)) > 0.99
        assert np.mean((memory[index, 1] > 0.5) == (given == clean)) < 0.9
    assert method.refresh(lambda: pytest.fail("it warms up"), given, index, memory, 9) is memory


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4, 0.75, 0.999])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_dividemix_counts_as_labelled_what_a_rate_says(rate, threshold):
    """The smallest losses of the other peer; no probability goes farther than the threshold."""
    n, generator = 200, np.random.default_rng(1)
    given = generator.integers(0, 5, n)
    logits = 4 * np.eye(5)[np.where(generator.random(n) < 0.3, (given + 1) % 5, given)]
    logits = logits + generator.normal(size=(2, n, 5))
    told, free = (
        METHODS["dividemix"](n, 5, rate=r, threshold=threshold) for r in (rate, "mixture")
    )
    args = lambda: Outputs(None, logits), given, np.arange(n)
    memory, mixture = (m.refresh(*args, m.init(), 10) for m in (told, free))
    kept = max(int(np.floor((1 - rate) * n + 1e-4)), 1)
    for peer in range(2):
        p = softmax(logits[1 - peer])
        order = np.argsort(-np.log(p[np.arange(n), given]), kind="stable")
        labelled = memory[:, peer] > np.float32(threshold)
        assert np.flatnonzero(labelled).tolist() == sorted(order[:kept].tolist())
        same = labelled == (mixture[:, peer] > np.float32(threshold))
        assert (memory[same, peer] == mixture[same, peer]).all()
        np.testing.assert_allclose(memory[~same, peer], threshold, rtol=1e-6)
    assert memory.dtype == np.float32
    assert memory.max() <= 1


def test_dividemix_says_the_rate_that_it_is_told():
    image = jnp.asarray(np.random.default_rng(4).normal(size=(2, 6, 2, 2, 3)), jnp.float32)
    batch, key = Batch(image, jnp.asarray(LABEL), jnp.arange(6)), jax.random.key(0)
    outputs = network([image] * 2)
    free, told = (METHODS["dividemix"](6, 4, **r) for r in ({}, {"rate": 0.25}))
    one, two = (m.loss(outputs, batch, m.init(), network, key, 30.0) for m in (free, told))
    assert one[0] == two[0], "only what counts as labelled differs, and here it does not"
    assert two[2].keys() - one[2].keys() == {"noise_rate"}
    assert float(two[2]["noise_rate"]) == 0.25


def test_mixup_is_the_method_on_mixed_images_and_targets():
    method, image = (
        METHODS["gce"](6, 4),
        jnp.asarray(np.random.default_rng(4).normal(size=(1, 6, 2, 2, 3)), jnp.float32),
    )
    batch, key = Batch(image, jnp.asarray(LABEL), jnp.arange(6)), jax.random.key(1)
    value, *_ = mixup(method, 1.0, 4).loss(network([image]), batch, (), network, key, 0.0)
    x, y = mixed(key, 1.0, image, jnp.eye(4)[LABEL])
    p = softmax(np.asarray(x).reshape(6, -1) @ WEIGHTS[0])
    np.testing.assert_allclose(
        value, (np.asarray(y)[0] * (1 - p**0.7) / 0.7).sum(1).mean(), rtol=1e-5
    )
    assert mixup(method, 0.0, 4) is method


@pytest.mark.parametrize("name", ["elr", "co_teaching", "jocor", "dividemix"])
def test_mixup_is_refused_where_it_does_not_suit(name):
    with pytest.raises(UserError, match=r"^mixup must be 0 but for .*ce, gce, sce.* got 1\.0"):
        mixup(METHODS[name](6, 4), 1.0, 4)
    with pytest.raises(UserError, match=r"^mixup must be in"):
        mixup(METHODS["ce"](6, 4), -1.0, 4)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("co_teaching", "rate", "many"),
        ("co_teaching", "rate", "1.0"),
        ("co_teaching", "rate", -0.1),
        ("jocor", "rate", float("nan")),
        ("jocor", "rate", None),
        ("jocor", "ramp_epochs", 0.0),
        ("jocor", "agreement", 2.0),
        ("gce", "q", 0.0),
        ("gce", "q", 1.5),
        ("gce", "q", float("nan")),
        ("sce", "alpha", -1.0),
        ("elr", "momentum", 1.0),
        ("elr", "weight", -1.0),
        ("dividemix", "warmup_epochs", 1),
        ("dividemix", "alpha", 0.0),
        ("dividemix", "temperature", 0.0),
        ("dividemix", "threshold", 1.5),
        ("dividemix", "unlabelled_weight", -1.0),
        ("dividemix", "confidence_penalty", -1.0),
        ("dividemix", "rate", "estimate"),
        ("dividemix", "rate", 1.0),
        ("dividemix", "rate", "graph"),
        ("co_teaching", "rate", "mixture"),
        ("co_teaching", "rate", "graph"),
        ("jocor", "rate", "graph"),
    ],
)
def test_bad_values_are_refused(name, field, value):
    with pytest.raises(UserError, match=rf"^{field} must be .* got"):
        METHODS[name](6, 4, **{field: value})


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("classes", "label", "scale"),
    [
        (2, [0, 1, 1, 0, 1, 0], 1.0),
        (4, [2] * 6, 1.0),
        (4, [0, 3, 1, 1, 2, 0], 1e3),
        (4, [0, 3, 1, 1, 2, 0], 0.0),
    ],
    ids=["two classes", "classes missing", "sure mistakes", "equal logits"],
)
@pytest.mark.parametrize("epoch", [0.0, 50.0])
def test_odd_batches_have_finite_losses_and_gradients(name, classes, label, scale, epoch):
    """Before and after ramp or warm-up; DivideMix takes all labels to be wrong."""
    method = METHODS[name](
        6, classes, **({"rate": "0.95"} if name in ("co_teaching", "jocor") else {})
    )
    memory = jnp.zeros((2, 6)) if name == "dividemix" else method.init()
    image = jnp.asarray(
        np.random.default_rng(4).normal(size=(method.views, 6, 2, 2, 3)), jnp.float32
    )
    batch = Batch(image, jnp.asarray(label), jnp.arange(6))

    def loss(weights):
        def forward(images):
            return tuple(
                Outputs(None, scale * x.reshape(*x.shape[:2], -1) @ w)
                for x, w in zip(images, weights)
            )

        return method.loss(
            forward([image] * method.peers), batch, memory, forward, jax.random.key(0), epoch
        )[0]

    value, gradient = jax.value_and_grad(loss)(
        jnp.asarray(WEIGHTS[: method.peers, :, :classes], jnp.float32)
    )
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()

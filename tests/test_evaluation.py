"""Evaluation against slow lines of NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rmdnet_jax import evaluation, sharding
from rmdnet_jax.data.draws import CROP_RATIO, draw_box
from rmdnet_jax.errors import UserError
from rmdnet_jax.networks.layers import Network
from rmdnet_jax.training.predict import features_of, predictor

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(200, 5)) * 3, RNG.integers(0, 5, 200)
PROBABILITY = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)


def test_negative_log_likelihood():
    slow = -np.mean([np.log(p[y]) for p, y in zip(PROBABILITY, LABELS)])
    assert evaluation.negative_log_likelihood(LOGITS, LABELS) == pytest.approx(slow)
    assert np.isfinite(evaluation.negative_log_likelihood(np.array([[1e4, -1e4]]), np.array([1])))


def test_expected_calibration_error():
    confidence, right = PROBABILITY.max(1), PROBABILITY.argmax(1) == LABELS
    slow = 0.0
    for b in range(15):
        inside = (confidence >= b / 15) & (confidence < (b + 1) / 15)
        if inside.any():
            slow += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert evaluation.expected_calibration_error(LOGITS, LABELS) == pytest.approx(slow)
    sure = np.array([[50.0, 0.0]] * 4)
    assert evaluation.expected_calibration_error(sure, np.array([0, 0, 1, 1])) == pytest.approx(0.5)


def test_knn_votes_with_weighted_cosines():
    bank, label, query = RNG.normal(size=(60, 4)), RNG.integers(0, 3, 60), RNG.normal(size=(25, 4))
    slow = []
    for q in query:
        cosine = np.array([q @ b / np.linalg.norm(q) / np.linalg.norm(b) for b in bank])
        near = np.argsort(-cosine)[:7]
        slow.append(
            np.argmax([np.exp(cosine[near] / 0.1)[label[near] == c].sum() for c in range(3)])
        )
    np.testing.assert_array_equal(evaluation.knn(bank, label, query, 3, k=7, temperature=0.1), slow)
    np.testing.assert_array_equal(evaluation.knn(bank, label, bank, 3, k=1), label)
    assert len(evaluation.knn(bank, label, query, 3, k=1000)) == 25  # k is at most the bank


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 0}, "k must be >= 1, got 0"),
        ({"k": 2.5}, "k must be an integer >= 1, got 2.5"),
        ({"temperature": 0.0}, "temperature must be > 0, got 0.0"),
        ({"label": np.zeros(5, int)}, "label must have the bank's length 6, got 5"),
        ({"query": np.ones((3, 5))}, r"query must have the bank's dimension 4, got 5"),
    ],
)
def test_knn_refuses_what_does_not_fit(wrong, message):
    good = {"bank": np.ones((6, 4)), "label": np.zeros(6, int), "query": np.ones((3, 4))}
    with pytest.raises(UserError, match=f"^{message}$"):
        evaluation.knn(**{**good, "num_classes": 2, **wrong})


def test_calibration_refuses_a_number_of_bins_below_one():
    with pytest.raises(UserError, match=r"^bins must be >= 1, got 0$"):
        evaluation.expected_calibration_error(LOGITS, LABELS, bins=0)


def test_linear_probe_separates_what_is_separable():
    label = np.arange(90) % 3
    features = np.eye(3)[label] * 5 + RNG.normal(size=(90, 3)) * 0.1
    np.testing.assert_array_equal(evaluation.linear_probe(features, label, features), label)


def test_columns_never_mix():
    records = [
        {"test_accuracy": 0.1 * i, "validation_accuracy": v}
        for i, v in enumerate([0.2, 0.9, 0.3, 0.9])
    ]
    found = evaluation.columns(records)
    assert found["last"] == pytest.approx(0.3)
    assert found["best"] == pytest.approx(0.3)
    assert found["last10"] == pytest.approx(0.15)
    assert found["noisy_validation"] == pytest.approx(
        0.1
    )  # the first of equals: later epochs are not preferred
    assert evaluation.columns([{"test_accuracy": t / 20} for t in range(20)])[
        "last10"
    ] == pytest.approx(14.5 / 20)
    assert evaluation.columns([{"test_accuracy": 0.5}])["noisy_validation"] is None
    assert evaluation.columns([{"loss": 1.0}]) == {
        "last": None,
        "last10": None,
        "best": None,
        "noisy_validation": None,
    }


NAN = np.where(np.arange(12).reshape(6, 2) == 5, np.nan, 1.0)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: evaluation.cross_entropy(NAN, np.zeros(6, int)), "logits"),
        (lambda: evaluation.negative_log_likelihood(NAN / 0.0, np.zeros(6, int)), "logits"),
        (lambda: evaluation.expected_calibration_error(NAN, np.zeros(6, int)), "logits"),
        (lambda: evaluation.small_loss_probability(NAN[:, 1]), "loss"),
        (lambda: evaluation.knn(NAN, np.zeros(6, int), np.ones((2, 2)), 2), "bank"),
        (lambda: evaluation.knn(np.ones((6, 2)), np.zeros(6, int), NAN, 2), "query"),
        (lambda: evaluation.linear_probe(NAN, np.arange(6) % 2, np.ones((2, 2))), "bank"),
        (lambda: evaluation.linear_probe(np.ones((6, 2)), np.arange(6) % 2, NAN), "query"),
    ],
)
def test_what_is_not_finite_is_refused(call, argument):
    with (
        np.errstate(divide="ignore"),
        pytest.raises(UserError, match=rf"^{argument} must be finite, got NaN or infinity$"),
    ):
        call()


def test_a_probe_of_one_class_is_refused():
    with pytest.raises(UserError, match=r"^label must be of two classes or more, got \[3\] alone$"):
        evaluation.linear_probe(np.eye(4), np.full(4, 3), np.eye(4))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_of_an_evaluation_that_are_not_finite_are_refused(value):
    mesh, images = sharding.mesh(), np.zeros((20, 2, 2, 1), np.uint8)
    images[[3, 17]] = 1
    run = predictor(
        lambda v, x: {"n": x.sum((1, 2, 3)) > 0, "y": jnp.where(x.sum((1, 2, 3)) > 0, v, 0.0)},
        mesh, 8, np.zeros(1), np.ones(1),
    )  # fmt: skip
    assert run(2.0, images)["y"].sum() == 4
    with pytest.raises(UserError, match=r"outputs are not finite for 2 of 20 images"):
        run(value, images)


def test_features_over_crops_are_the_mean_of_pillows_crops():
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 12, 3)).astype(np.uint8)
    mean, std = np.array([0.4, 0.5, 0.6], np.float32), np.array([0.2, 0.3, 0.1], np.float32)
    weights = np.random.default_rng(1).normal(size=(16 * 12 * 3, 5)).astype(np.float32)
    network = Network(None, lambda v, x, train: (x.reshape(len(x), -1) @ v, None))
    many = features_of(network, sharding.mesh(), 16, mean, std, crops=3, scale=(0.2, 0.9))
    keys, found = jax.random.split(jax.random.key(0), 3), []
    for number, key in enumerate(keys):
        top, left, height, width = (int(x) for x in draw_box(key, 16, 12, (0.2, 0.9), CROP_RATIO))
        box = (left, top, left + width, top + height)
        for image in images:
            parts = [Image.fromarray(image[..., c] / np.float32(255)) for c in range(3)]
            size = (12, 16), Image.Resampling.BILINEAR
            crop = np.stack([np.asarray(part.crop(box).resize(*size)) for part in parts], -1)
            crop = crop[:, ::-1] if number % 2 else crop
            row = ((crop - mean) / std).ravel() @ weights
            found.append(row / np.linalg.norm(row))
    expected = np.mean(np.reshape(found, (3, 3, 5)), axis=0)
    np.testing.assert_allclose(many(weights, images), expected, atol=1e-4)
    whole = features_of(network, sharding.mesh(), 16, mean, std)(weights, images)
    plain = ((images / 255 - mean) / std).reshape(3, -1) @ weights
    np.testing.assert_allclose(whole, plain, rtol=1e-3)

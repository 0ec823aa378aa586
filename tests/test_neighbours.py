"""Nearest neighbours: exact against a full sort, approximate against exact, the choice of them."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmdnet_jax.errors import UserError
from rmdnet_jax.relations import neighbours, propagation
from rmdnet_jax.relations.graph import connect

N, K = 203, 5
FEATURES = np.random.default_rng(0).normal(size=(N, 16)).astype(np.float32)
UNIT = FEATURES.astype(np.float64) / np.linalg.norm(FEATURES, axis=1, keepdims=True)
COSINE = UNIT @ UNIT.T - 3 * np.eye(N)
ORDER = np.argsort(-COSINE, axis=1)[:, :K]


def test_exact_neighbours_are_those_of_a_full_sort(devices):
    found, cosine = neighbours.exact(FEATURES, K)
    np.testing.assert_array_equal(found, ORDER)
    np.testing.assert_allclose(cosine, np.take_along_axis(COSINE, ORDER, axis=1), atol=1e-6)


def test_more_rows_than_a_block(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 64)
    np.testing.assert_array_equal(neighbours.exact(FEATURES, K)[0], ORDER)


def curved(size, dim=32, seed=0):
    """Features with four degrees of freedom, as an encoder's have few; and their eight classes."""
    generator = np.random.default_rng(seed)
    clean = np.arange(size) % 8
    latent = generator.normal(size=(8, 4))[clean] + 0.3 * generator.normal(size=(size, 4))
    return np.maximum(latent @ generator.normal(size=(4, dim)), 0).astype(np.float32), clean


def test_the_index_finds_nearly_all_neighbours_and_says_how_many():
    features, _ = curved(6000)
    found, true = neighbours.find(features, K, "approximate"), neighbours.find(features, K, "exact")
    shares = [
        len(np.intersect1d(a, b)) / K
        for a, b in zip(np.asarray(found.index), np.asarray(true.index))
    ]
    assert np.mean(shares) > 0.97
    assert found.recall == pytest.approx(np.mean(shares), abs=0.02)
    assert true.recall == 1.0
    assert not np.any(np.asarray(found.index) == np.arange(6000)[:, None])
    assert np.all(np.diff(np.asarray(found.cosine)) <= 1e-6)
    again = neighbours.find(features, K, "approximate")
    np.testing.assert_array_equal(found.index, again.index)


def test_no_row_is_its_own_neighbour_and_missing_ones_have_no_weight():
    index, cosine = neighbours._others(
        np.arange(3),
        np.array([[1, 0.9, 0.8]] * 3, np.float32),
        np.array([[0, 2, 1], [2, 0, 1], [0, 1, -1]]),
    )
    np.testing.assert_array_equal(index, [[2, 1], [2, 0], [0, 1]])
    np.testing.assert_array_equal(cosine, np.array([[0.9, 0.8], [1, 0.9], [1, 0.9]], np.float32))
    index, cosine = neighbours._others(
        np.array([2]), np.ones((1, 3), np.float32), np.array([[2, -1, -1]])
    )
    np.testing.assert_array_equal(index, [[2, 2]])
    graph = connect(jax.numpy.asarray(index), jax.numpy.asarray(cosine), 0.1)
    np.testing.assert_array_equal(graph.weight, [[0, 0]])


def test_auto_takes_the_index_for_very_many_rows_on_a_cpu(monkeypatch):
    assert neighbours.chosen("auto", neighbours.MANY) == "exact"
    assert neighbours.chosen("auto", neighbours.MANY + 1) == "approximate"
    assert neighbours.chosen("exact", 10**9) == "exact"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert neighbours.chosen("auto", 10**9) == "exact"


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(
        UserError,
        match=r"^search must be exact where faiss is missing, got .* pip install faiss-cpu",
    ):
        neighbours.chosen("approximate", 10)
    with pytest.raises(UserError, match=r"^search must be one of .* did you mean exact"):
        neighbours.chosen("exac", 10)


def test_propagation_by_the_index_mends_labels_as_by_exact_neighbours():
    features, clean = curved(4000)
    given = np.where(np.random.default_rng(1).random(4000) < 0.4, (clean + 1) % 8, clean)
    one, two = (
        propagation.propagate(features, given, 8, search=search)
        for search in ("exact", "approximate")
    )
    right = [np.mean(found.targets.argmax(1) == clean) for found in (one, two)]
    assert right[1] > right[0] - 0.01
    assert two.summary["recall"] > 0.9


@pytest.mark.parametrize(("columns", "k"), [(50, 3), (203, 20), (1000, 20), (997, 1), (64, 31)])
@pytest.mark.parametrize("values", [2, 9, 10**6], ids=["ties", "some ties", "none"])
def test_the_largest_of_a_row_are_those_of_a_full_sort(columns, k, values):
    x = np.random.default_rng(0).integers(0, values, (9, columns)).astype(np.float32)
    order = np.argsort(-x, axis=1, kind="stable")[:, :k]  # of equal values the first
    found, place = neighbours.by_groups(jnp.asarray(x), k)
    np.testing.assert_array_equal(place, order)
    np.testing.assert_array_equal(found, np.take_along_axis(x, order, axis=1))

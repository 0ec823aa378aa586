"""`rmd.noise`: the labels of a run for any vector of labels; what it says of labels."""

import inspect
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from rmdnet_jax import noise
from rmdnet_jax.errors import UserError
from rmdnet_jax.labels import noise as kinds
from rmdnet_jax.types import hyper

N, CLASSES = 500, 5
LABELS = (np.arange(N) * 7 % CLASSES).astype(np.int64)
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 3, 4, 1)).astype(np.uint8)
ROWS = np.full((CLASSES, CLASSES), 0.1) + 0.5 * np.eye(CLASSES)
NAMES = np.array(["owl", "ant", "cat", "dog", "yak"])
CALLS = {
    "symmetric": lambda labels, **more: noise.symmetric(labels, **more),
    "asymmetric": lambda labels, **more: noise.asymmetric(labels, **more),
    "pair": lambda labels, **more: noise.pair(labels, **more),
    "instance": lambda labels, **more: noise.instance(labels, IMAGES[: len(labels)], **more),
    "matrix": lambda labels, **more: noise.matrix(labels, ROWS, **more),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("seed", [0, 3])
def test_numbers_get_the_labels_that_a_run_draws(name, seed):
    fields = {"rows": ROWS} if name == "matrix" else {}
    kind = kinds.make(name, num_classes=CLASSES, seed=seed, **fields)
    expected = np.asarray(kind.labels(np.arange(N), LABELS, IMAGES))
    given = CALLS[name](LABELS, seed=seed)
    np.testing.assert_array_equal(given, expected)
    assert given.dtype == LABELS.dtype
    assert 0.2 < np.mean(given != LABELS) < 0.6


@pytest.mark.parametrize("name", CALLS)
def test_any_labels_move_as_their_numbers_do(name):
    numbers = CALLS[name](LABELS)
    np.testing.assert_array_equal(
        CALLS[name](NAMES[LABELS].tolist(), classes=NAMES), NAMES[numbers]
    )
    ranks = np.sort(NAMES)
    np.testing.assert_array_equal(CALLS[name](ranks[LABELS]), ranks[numbers])
    np.testing.assert_array_equal(CALLS[name](jnp.asarray(LABELS * 10 - 7)), numbers * 10 - 7)
    few = LABELS.astype(np.int8)
    assert CALLS[name](few).dtype == np.int8
    part = CALLS[name](LABELS[:9], classes=range(CLASSES))  # of the position and the label alone
    np.testing.assert_array_equal(part, numbers[:9])


@pytest.mark.parametrize("name", CALLS)
def test_the_face_has_the_fields_and_defaults_of_the_kind(name):
    face, fields = hyper(getattr(noise, name)), hyper(kinds.KINDS[name])
    own = {"classes": None, "seed": 0}
    assert face == own if name == "matrix" else face == {**fields, **own}
    required = [
        parameter.name
        for parameter in inspect.signature(getattr(noise, name)).parameters.values()
        if parameter.default is parameter.empty
    ]
    assert required == ["labels", *{"instance": ["images"], "matrix": ["rows"]}.get(name, [])]


def test_a_mapping_says_where_a_label_moves():
    labels = NAMES[LABELS]
    given = noise.asymmetric(labels, rate=1.0, mapping={"cat": "dog", "dog": "cat"})
    expected = [{"cat": "dog", "dog": "cat"}.get(label, label) for label in labels.tolist()]
    assert given.tolist() == expected
    numbers = noise.asymmetric(LABELS, rate=1.0, mapping=[1, 1, 1, 1, 0])
    np.testing.assert_array_equal(numbers, np.array([1, 1, 1, 1, 0])[LABELS])
    bools = noise.asymmetric([True, False], rate=1.0, mapping={True: False})
    assert bools.tolist() == [False, False]


@pytest.mark.parametrize("rate", [0, 1])
@pytest.mark.parametrize("name", ["symmetric", "asymmetric", "pair"])
def test_rates_of_nothing_and_of_all(name, rate):
    assert np.mean(CALLS[name](LABELS, rate=rate) != LABELS) == rate


def test_describe_counts_what_is_wrong():
    clean, given = NAMES[LABELS], NAMES[noise.pair(LABELS, rate=0.3)]
    found = noise.describe(clean, given)
    assert found.classes.tolist() == sorted(NAMES)
    assert found.rate == np.mean(clean != given)
    for i, row in enumerate(found.classes):
        for j, column in enumerate(found.classes):
            assert found.transition[i, j] == pytest.approx(np.mean(given[clean == row] == column))
    numbers = np.array([sorted(NAMES).index(label) for label in given])
    assert found.sha256 == kinds.digest(numbers)


def test_describe_numbers_classes_that_only_one_side_holds():
    found = noise.describe([1, 1], [1, 5])
    assert found.classes.tolist() == [1, 5]
    np.testing.assert_array_equal(found.transition, [[0.5, 0.5], [0, 0]])
    found = noise.describe([1, 1], [1, 5], classes=[5, 3, 1])
    np.testing.assert_array_equal(found.transition, [[0, 0, 0], [0, 0, 0], [0.5, 0, 0.5]])


def test_a_described_transition_can_be_drawn_from():
    rows = noise.describe(LABELS % 3, noise.symmetric(LABELS % 3, rate=0.5)).transition
    assert noise.matrix(LABELS % 3, rows).shape == (N,)


BAD = {
    "labels must hold at least one": lambda: noise.pair([]),
    "labels must not hold missing": lambda: noise.symmetric([0, 1, None]),
    "labels must be among the 2 classes, got 7": lambda: noise.pair([0, 7], classes=[0, 1]),
    "labels must hold two classes or more, got 3 alone": lambda: noise.symmetric([3, 3]),
    "classes must hold two classes or more": lambda: noise.pair([3], classes=[3]),
    r"rate must be in \[0, 1\], got 1.4": lambda: noise.symmetric([0, 1], rate=1.4),
    r"rate must be in \[0, 1\], got nan": lambda: noise.pair([0, 1], rate=float("nan")),
    r"rate must be in \[0, 1\], got -1": lambda: noise.instance(LABELS, IMAGES, rate=-1),
    "seed must be .*got -1": lambda: noise.pair([0, 1], seed=-1),
    "seed must be an integer .*got 0.5": lambda: noise.pair([0, 1], seed=0.5),
    "mapping must be auto, .*got 'cifar20'": lambda: noise.asymmetric([0, 1], mapping="cifar20"),
    "mapping must give one class": lambda: noise.asymmetric([0, 1], mapping="cifar10"),
    "mapping must be among the 2 classes, got 4": lambda: noise.asymmetric([0, 1], mapping={0: 4}),
    "images must be one for each of the 500 labels, got 9": lambda: noise.instance(
        LABELS, IMAGES[:9]
    ),
    r"images must be uint8 \[n, height, width, channel\], got float64": lambda: noise.instance(
        LABELS, IMAGES / 255
    ),
    r"images must be uint8 .* of shape \(500, 3, 4\)": lambda: noise.instance(
        LABELS, IMAGES[..., 0]
    ),
    r"rows must be a 5 x 5 matrix, got shape \(2, 2\)": lambda: noise.matrix(LABELS, np.eye(2)),
    "rows must be >= 0 and each row must sum to 1": lambda: noise.matrix(LABELS, 2 * ROWS),
    "rows must be a 5 x 5 matrix of numbers": lambda: noise.matrix(LABELS, [["a"] * 5] * 5),
    "rows must be an array or a list": lambda: noise.matrix(LABELS, [[1], [0, 1]]),
    "given must hold one label for each of the 2": lambda: noise.describe([0, 1], [0]),
    "clean must be a list or an array": lambda: noise.describe(3, [0]),
    "given must hold at least one": lambda: noise.describe([0], []),
    "given must be among the 2 classes": lambda: noise.describe([0], [4], classes=[0, 1]),
    "clean and given must be of one kind": lambda: noise.describe([0], ["a"]),
}


@pytest.mark.parametrize("message", BAD)
def test_a_wrong_argument_is_named_in_one_line(message):
    with pytest.raises(UserError, match=f"^{message}") as error:
        BAD[message]()
    assert "\n" not in str(error.value)


def test_importing_the_face_imports_no_jax():
    code = "import sys, rmdnet_jax.noise; print('jax' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"

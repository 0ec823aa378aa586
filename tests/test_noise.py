"""Label noise: draws, rates, maps, independence of order and batch, files, tool, bad input."""

import contextlib
import csv
import hashlib
import io
import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SHARED

from rmdnet_jax.app import features
from rmdnet_jax.data import sources
from rmdnet_jax.errors import UserError, under
from rmdnet_jax.labels import files, given, noise
from rmdnet_jax.labels.mappings import CIFAR10_MAP, CIFAR100_SUPERCLASSES

N, CLASSES = 20000, 10
INDEX, CLEAN = np.arange(N), np.arange(N) * 7 % CLASSES
ROWS = tuple(
    tuple(0.7 if i == j else 0.3 / (CLASSES - 1) for j in range(CLASSES)) for i in range(CLASSES)
)
EXAMPLES = {
    "none": {},
    "symmetric": {"rate": 0.5},
    "asymmetric": {"rate": 0.4, "mapping": "cifar10"},
    "pair": {"rate": 0.4},
    "instance": {"rate": 0.4},
    "matrix": {"rows": ROWS},
    "file": {},
}


def make(name, tmp_path, seed=0, **fields):
    fields = {**EXAMPLES.get(name, {}), **fields}
    if name == "file" and "path" not in fields:
        fields["path"] = str(tmp_path / "labels.npy")
        np.save(fields["path"], (CLEAN + INDEX % 3) % CLASSES)
    return noise.make(name, num_classes=CLASSES, seed=seed, **fields)


def transition(given, clean=CLEAN, classes=CLASSES):
    return np.array(
        [[np.mean(given[clean == i] == j) for j in range(classes)] for i in range(classes)]
    )


def key(seed, stream, index):
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), index)


def uniform(seed, stream, index):
    return np.float32(jax.random.uniform(key(seed, stream, index), dtype=jnp.float32))


def slow_pick(seed, i, choices):
    """The second draw of example i, a whole number below `choices`."""
    return min(int(uniform(seed, 1, i) * np.float32(choices)), choices - 1)


def slow_symmetric(i, y, rate=0.5, inclusive=False):
    if not uniform(0, 0, i) < np.float32(rate):
        return y
    others = [*range(CLASSES)] if inclusive else [(y + 1 + k) % CLASSES for k in range(CLASSES - 1)]
    return others[slow_pick(0, i, len(others))]


def slow_map(i, y, target):
    return target if uniform(0, 0, i) < np.float32(0.4) else y


def slow_matrix(i, y):
    draw, total = uniform(0, 0, i), 0.0
    for j, share in enumerate(ROWS[y]):
        total += share
        if draw < np.float32(total / sum(ROWS[y])):
            return j
    raise AssertionError


def slow_instance(i, y):
    low, high = (0 - 0.4) / 0.1, (1 - 0.4) / 0.1
    flip = 0.4 + 0.1 * float(
        jax.random.truncated_normal(key(0, 0, i), low, high, dtype=jnp.float32)
    )
    pixels = IMAGES[i].ravel() / 255
    weights = np.float64(jax.random.normal(key(0, 2, y), (pixels.size, CLASSES), jnp.float32))
    p = np.exp(pixels @ weights)
    p[y] = 0.0
    p *= flip / p.sum()
    p[y] = 1 - flip
    return int(np.flatnonzero(uniform(0, 1, i) < np.cumsum(p))[0])


SLOW = {
    "none": lambda i, y: y,
    "symmetric": slow_symmetric,
    "inclusive": lambda i, y: slow_symmetric(i, y, 0.8, inclusive=True),
    "asymmetric": lambda i, y: slow_map(i, y, CIFAR10_MAP[y]),
    "pair": lambda i, y: slow_map(i, y, (y + 1) % CLASSES),
    "instance": slow_instance,
    "matrix": slow_matrix,
    "file": lambda i, y: (y + i % 3) % CLASSES,
}


@pytest.mark.parametrize("name", [*noise.KINDS, "inclusive"])
def test_labels_of_a_seed_are_these_draws_one_example_at_a_time(name, tmp_path):
    """What a published hash stands for: which draw of which key moves a label, and where to."""
    rows = np.arange(100)
    expected = [SLOW[name](int(i), int(CLEAN[i])) for i in rows]
    if name == "inclusive":
        kind = make("symmetric", tmp_path, rate=0.8, inclusive=True)
    else:
        kind = make(name, tmp_path)
    found = np.asarray(kind.labels(rows, CLEAN[rows], IMAGES[rows]))
    np.testing.assert_array_equal(found, expected)
    as_bytes = b"".join(y.to_bytes(4, "little") for y in expected)
    assert noise.digest(found) == hashlib.sha256(as_bytes).hexdigest()


IMAGES = np.random.default_rng(1).integers(0, 256, (N, 4, 4, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", [name for name in noise.KINDS if name != "instance"])
def test_an_examples_label_depends_on_nothing_but_seed_and_index(name, tmp_path):
    kind = make(name, tmp_path)
    whole = np.asarray(kind.labels(INDEX, CLEAN))
    order = np.random.default_rng(0).permutation(N)[:333]
    np.testing.assert_array_equal(kind.labels(order, CLEAN[order]), whole[order])
    np.testing.assert_array_equal(
        jax.jit(kind.labels)(order[:1], CLEAN[order[:1]]), whole[order[:1]]
    )
    with jax.enable_x64(True):
        np.testing.assert_array_equal(
            kind.labels(jnp.asarray(order), jnp.asarray(CLEAN[order])), whole[order]
        )
    assert whole.dtype == np.int32
    assert whole.min() >= 0
    assert whole.max() < CLASSES


def test_instance_labels_depend_on_seed_index_and_image_alone():
    kind = noise.make("instance", num_classes=CLASSES, seed=0, rate=0.3)
    whole = kind.labels(INDEX, CLEAN, IMAGES)
    order = np.random.default_rng(0).permutation(N)[:333]
    np.testing.assert_array_equal(kind.labels(order, CLEAN[order], IMAGES[order]), whole[order])
    np.testing.assert_array_equal(
        kind.labels(order[:1], CLEAN[order[:1]], IMAGES[order[:1]]), whole[order[:1]]
    )
    assert whole.dtype == np.int32
    assert np.mean(whole != CLEAN) == pytest.approx(0.3, abs=4 * (0.25 / N) ** 0.5)
    other = noise.make("instance", num_classes=CLASSES, seed=1, rate=0.3).labels(
        INDEX, CLEAN, IMAGES
    )
    assert np.mean(whole != other) > 0.2
    given = noise.frozen(whole)
    np.testing.assert_array_equal(jax.jit(given.labels)(order, CLEAN[order]), whole[order])
    with pytest.raises(UserError, match=r"^image must be given"):
        kind.labels(INDEX, CLEAN)


def test_instance_noise_follows_the_image():
    """The same image moves to the same few classes, with the shares of the softmax."""
    image = np.repeat(IMAGES[:1], N, axis=0)
    given = noise.make("instance", num_classes=CLASSES, seed=0, rate=0.3).labels(
        INDEX, np.zeros(N, int), image
    )
    weights = np.asarray(
        jax.random.normal(
            jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 2), 0), (48, CLASSES)
        )
    )
    logits = (IMAGES[0].ravel() / 255) @ weights
    share = np.exp(logits[1:]) / np.exp(logits[1:]).sum()
    found = np.array([np.mean(given[given > 0] == c) for c in range(1, CLASSES)])
    np.testing.assert_allclose(found, share, atol=0.03)


def test_variants_for_cifar_100():
    clean = np.arange(N) % 100
    group = {y: k for k, members in enumerate(CIFAR100_SUPERCLASSES) for y in members}
    given = {
        name: np.asarray(
            noise.make("asymmetric", num_classes=100, seed=0, rate=0.5, mapping=name).labels(
                INDEX, clean
            )
        )
        for name in ("cifar100", "superclass_uniform", "blocks_of_five", "next")
    }
    for name, labels in given.items():
        assert np.mean(labels != clean) == pytest.approx(0.5, abs=0.02), name
    for name in ("cifar100", "superclass_uniform"):
        assert all(group[a] == group[b] for a, b in zip(clean, given[name]))
    targets = {
        name: {y: len(set(labels[(clean == y) & (labels != y)])) for y in range(100)}
        for name, labels in given.items()
    }
    assert {name: set(counts.values()) for name, counts in targets.items()} == {
        "cifar100": {1}, "superclass_uniform": {4}, "blocks_of_five": {1}, "next": {1},
    }  # fmt: skip
    moved = given["blocks_of_five"] != clean
    np.testing.assert_array_equal(
        given["blocks_of_five"][moved], (clean // 5 * 5 + (clean + 1) % 5)[moved]
    )
    with pytest.raises(UserError, match=r"^mapping must give one class"):
        noise.make("asymmetric", num_classes=10, seed=0, mapping="superclass_uniform")


@pytest.mark.parametrize("name", ["symmetric", "pair", "matrix"])  # equal rates in all classes
def test_another_seed_draws_other_labels_and_neighbouring_indices_are_independent(name, tmp_path):
    one, two = (np.asarray(make(name, tmp_path, seed=s).labels(INDEX, CLEAN)) for s in (0, 1))
    wrong_one, wrong_two = one != CLEAN, two != CLEAN
    assert abs(np.corrcoef(wrong_one, wrong_two)[0, 1]) < 4 / N**0.5
    assert abs(np.corrcoef(wrong_one[1:], wrong_one[:-1])[0, 1]) < 4 / N**0.5


EYE = np.eye(CLASSES)
CIFAR10 = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("none", {}, EYE),
        ("symmetric", {"rate": 0.5}, 0.5 * EYE + 0.5 * (1 - EYE) / (CLASSES - 1)),
        ("symmetric", {"rate": 0.5, "inclusive": True}, 0.5 * EYE + 0.5 / CLASSES),
        ("symmetric", {"rate": 1.0}, (1 - EYE) / (CLASSES - 1)),
        ("pair", {"rate": 0.3}, 0.7 * EYE + 0.3 * np.roll(EYE, 1, axis=1)),
        (
            "asymmetric",
            {"rate": 0.4},
            0.6 * EYE + 0.4 * EYE[[CIFAR10.get(y, y) for y in range(CLASSES)]],
        ),
        ("asymmetric", {"rate": 0.4, "mapping": "auto"}, 0.6 * EYE + 0.4 * np.roll(EYE, 1, axis=1)),
        (
            "asymmetric",
            {"rate": 1.0, "mapping": "1 0 2 3 4 5 6 7 8 9"},
            EYE[[1, 0, 2, 3, 4, 5, 6, 7, 8, 9]],
        ),
        ("matrix", {}, np.array(ROWS)),
    ],
)
def test_transitions_are_those_that_the_kind_defines(name, fields, expected, tmp_path):
    given = np.mean(
        [
            transition(np.asarray(make(name, tmp_path, seed=s, **fields).labels(INDEX, CLEAN)))
            for s in range(3)
        ],
        axis=0,
    )
    deviation = np.sqrt(expected * (1 - expected) / (3 * N / CLASSES))
    assert np.all(np.abs(given - expected) <= 4.5 * deviation + 1e-12)


def test_a_matrix_never_gives_a_class_of_probability_zero(tmp_path):
    rows = tuple(
        tuple(1.0 if j == (i + 3) % CLASSES else 0.0 for j in range(CLASSES))
        for i in range(CLASSES)
    )
    np.testing.assert_array_equal(
        make("matrix", tmp_path, rows=rows).labels(INDEX, CLEAN), (CLEAN + 3) % CLASSES
    )


def test_cifar100_moves_inside_the_superclass_in_a_circle_of_five():
    clean = np.arange(100)
    given = np.asarray(
        noise.make("asymmetric", num_classes=100, seed=0, rate=1.0, mapping="cifar100").labels(
            clean, clean
        )
    )
    group = {y: g for g, members in enumerate(CIFAR100_SUPERCLASSES) for y in members}
    assert sorted(group) == list(range(100))
    for y in range(100):
        members = sorted(k for k in range(100) if group[k] == group[y])
        assert given[y] == members[(members.index(y) + 1) % 5]


def test_cifar100_superclasses_are_the_data_sets_own():
    path = SHARED / "data" / "cifar100n.npz"
    if not path.exists():
        pytest.skip("needs CIFAR-100N's coarse labels, which lie outside the repository")
    with np.load(path, allow_pickle=False) as data:
        fine, coarse = data["clean_label"], data["clean_coarse_label"]
    assert (
        tuple(tuple(sorted(set(fine[coarse == g].tolist()))) for g in range(20))
        == CIFAR100_SUPERCLASSES
    )


def test_human_labels_of_cifar10_have_their_published_rate():
    path = SHARED / "data" / "cifar10n.npz"
    if not path.exists():
        pytest.skip("needs CIFAR-10N, whose licence keeps it out of the repository")
    kind = noise.make("file", num_classes=10, seed=0, path=str(path), field="worse_label")
    with np.load(path, allow_pickle=False) as data:
        clean = data["clean_label"].astype(np.int32)
    described = noise.describe(clean, np.asarray(kind.labels(np.arange(50000), clean)), 10)
    assert described["rate"] == pytest.approx(0.4021, abs=5e-5)


@pytest.mark.parametrize("form", ["npy", "npz", "csv"])
def test_file_reads_labels_by_index(form, tmp_path):
    labels, path = np.array([3, 1, 4, 1, 5]), str(tmp_path / f"labels.{form}")
    if form == "npy":
        np.save(path, labels)
    elif form == "npz":
        np.savez(path, worse_label=labels)
    else:
        with open(path, "w", newline="") as out:
            csv.writer(out).writerows([[y] for y in labels])
    kind = noise.make(
        "file",
        num_classes=10,
        seed=0,
        path=path,
        field="worse_label" if form == "npz" else "labels",
    )
    assert kind.size == 5
    np.testing.assert_array_equal(kind.labels(np.array([4, 0]), np.array([0, 0])), [5, 3])


def test_describe_states_rate_transition_and_hash():
    described = noise.describe(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 3)
    assert described["rate"] == 0.25
    assert described["transition"] == [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 0]]
    assert (
        described["sha256"]
        == noise.describe(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 1], np.int64), 3)["sha256"]
    )
    assert (
        described["sha256"]
        != noise.describe(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0]), 3)["sha256"]
    )
    assert noise.describe(np.array([0]), np.array([0]), 2, known=False)["rate"] is None


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("symetric", {}, "did you mean symmetric"),
        ("symmetric", {"rate": 1.4}, r"^rate must be in \[0, 1\], got 1.4"),
        ("pair", {"rate": -0.1}, r"^rate must be in \[0, 1\]"),
        ("pair", {"rate": float("nan")}, r"^rate must be in \[0, 1\]"),
        ("pair", {"rat": 0.1}, "did you mean rate"),
        ("pair", {"rate": "0.1"}, r"^rate must be in \[0, 1\], got '0.1'"),
        ("none", {"rate": 0.1}, "^none's field must be"),
        ("asymmetric", {"mapping": ()}, "^mapping must give one class"),
        ("asymmetric", {"mapping": (0.5,) * 10}, "^mapping must be auto"),
        ("asymmetric", {"mapping": 3}, "^mapping must be auto"),
        ("asymmetric", {"mapping": "1 2"}, "^mapping must give one class"),
        ("asymmetric", {"mapping": "cifar100"}, "^mapping must give one class"),
        ("asymmetric", {"mapping": "cifar20"}, "^mapping must be auto"),
        ("matrix", {"rows": ((0.5, 0.4), (0.0, 1.0))}, "^rows must be a 10 x 10 matrix"),
        ("matrix", {"path": "/nowhere/matrix.npy"}, "^path .* cannot be read"),
        (
            "matrix",
            {"rows": (("a", "b"), (0.0, 1.0))},
            "^rows must be a 10 x 10 matrix of numbers",
        ),
        ("matrix", {"rows": ((float("nan"),) * 10,) * 10}, "each row must sum to 1"),
        (
            "matrix",
            {"rows": tuple((0.2,) * 10 for _ in range(10))},
            "each row must sum to 1, got row 0 with sum 2",
        ),
        ("matrix", {"rows": (*ROWS[:-1], (-0.5, *[0.0] * 8, 1.5))}, "row 9 .* least entry -0.5"),
        ("file", {"path": ""}, "^path must name a"),
        ("file", {"path": "/nowhere/labels.npy"}, "cannot be read"),
        ("file", {"path": "labels.txt"}, r"must end in .npy, .npz, .csv or .parquet"),
    ],
)
def test_bad_input_is_refused_in_one_line(name, fields, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        noise.make(name, num_classes=CLASSES, seed=0, **fields)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"^noise\."), under("noise"):
        noise.make(name, num_classes=CLASSES, seed=0, **fields)


@pytest.mark.parametrize("seed", [-1, 0.5, True, "0", 2**31])
def test_a_seed_is_an_integer_from_0(seed):
    with pytest.raises(UserError, match=r"^seed must be"):
        noise.make("pair", num_classes=3, seed=seed)


@pytest.mark.parametrize("name", ["symmetric", "asymmetric", "pair", "instance"])
def test_labels_cannot_move_within_one_class(name):
    with pytest.raises(UserError, match=r"^num_classes must be >= 2, got 1"):
        noise.make(name, num_classes=1, seed=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([0, 1, 10]), r"must hold labels in \[0, 10\)"),
        (np.array([0.5, 1.0]), "must hold one whole number an example"),
        (np.array([[0, 1]]), "must hold one whole number an example"),
        (np.array(["cat", "dog"]), "must hold one whole number an example"),
        (np.array([], np.int64), "must hold labels from 0"),
        (np.array([3, -1]), "must hold labels from 0"),
        (np.array([3, 2**32 - 1], np.uint32), "must hold labels from 0"),
        (np.array([3, 2**32 + 3]), "must hold labels from 0"),
        (np.array([3.0, np.inf]), "must hold labels from 0"),
        (np.array([{"a": 1}], dtype=object), "cannot be read"),
    ],
    ids=[
        "range",
        "fraction",
        "matrix",
        "text",
        "empty",
        "negative",
        "unsigned",
        "large",
        "infinite",
        "pickle",
    ],
)
def test_bad_label_files_are_refused(content, message, tmp_path):
    path = str(tmp_path / "labels.npy")
    np.save(path, content, allow_pickle=content.dtype == object)
    with pytest.raises(UserError, match=message):
        noise.make("file", num_classes=10, seed=0, path=path)


@pytest.mark.filterwarnings("ignore")  # NumPy leaves a broken archive open
@pytest.mark.parametrize("name", ["labels.npy", "labels.npz"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04half"], ids=["empty", "broken off"])
def test_damaged_label_files_are_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^path .*{name}' cannot be read"):
        noise.make("file", num_classes=10, seed=0, path=str(tmp_path / name))


def test_an_absent_field_lists_those_that_are_there(tmp_path):
    np.savez(tmp_path / "labels.npz", worse_label=np.zeros(3, int), aggre_label=np.zeros(3, int))
    with pytest.raises(UserError, match="did you mean worse_label"):
        noise.make(
            "file", num_classes=10, seed=0, path=str(tmp_path / "labels.npz"), field="worst_label"
        )


def read_csv(tmp_path, text, field="", **how):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8-sig")
    return files.read_array(str(tmp_path / "a.csv"), field, "--labels", **how).tolist()


@pytest.mark.parametrize(
    ("text", "field", "how", "expected"),
    [
        ("id, class\n7,cat\n8,007\n", "class", {}, ["cat", "007"]),
        ("id,class\n7,cat\n8,dog\n", "id", {}, [7, 8]),
        ("id,labels\n7,1.0\n8,2e0\n", "", {"usual": "labels"}, [1.0, 2.0]),
        ("1.5\n2.5\n", "", {}, ["1.5", "2.5"]),  # names: no class is a fraction
        ("9223372036854775808\n1\n", "", {}, ["9223372036854775808", "1"]),
        ("class\n3\n4\n", "labels", {}, [3, 4]),
        ("class\ncat\n", "", {"rows": 1}, ["cat"]),
        ("class\ncat\n", "", {"rows": 2}, ["class", "cat"]),
        ("# two\n# comments\n1,0\n0.5,0.5\n", "", {}, [[1, 0], [0.5, 0.5]]),
        ("a,b\n1,0\n\n0.5,0.5,\n", "", {}, [[1, 0], [0.5, 0.5]]),
        ("", "", {}, []),
    ],
)
def test_tables_are_read_by_column_or_whole(text, field, how, expected, tmp_path):
    assert read_csv(tmp_path, text, field, **how) == expected


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("id,class\n7,cat\n", "clas", "--labels's column must be .* did you mean class"),
        ("id,class\n7\n", "class", r"--labels must have 2 columns in each row, got \['7'\]"),
    ],
)
def test_tables_that_do_not_fit_are_refused(text, field, message, tmp_path):
    with pytest.raises(UserError, match=f"^{message}"):
        read_csv(tmp_path, text, field)


def test_a_field_follows_a_colon():
    told = {"a.npz:b": ("a.npz", "b"), "a:b/c.csv": ("a:b/c.csv", ""), "a.txt:b": ("a.txt:b", "")}
    for text, expected in told.items():
        assert files.named(text) == expected


GOOD = np.linspace(0, 1, 15).reshape(5, 3)


@pytest.mark.parametrize("test", [None, GOOD[:2]])
def test_features_of_a_teacher_are_read(test, tmp_path):
    made = types.SimpleNamespace(
        source=types.SimpleNamespace(labels=range(5), test_labels=range(2))
    )
    more = {} if test is None else {"test_features": test}
    np.savez(tmp_path / "e.npz", features=GOOD, **more)
    found, found_test = features.read(tmp_path / "e.npz", made.source)
    np.testing.assert_array_equal(found, GOOD.astype(np.float32))
    assert found.dtype == np.float32
    assert (found_test is None) == (test is None)
    np.savez(tmp_path / "wide.npz", features=GOOD, test_features=np.ones((2, 9)))
    with pytest.raises(UserError, match=r"must have features of one length, got \d+ and 9"):
        features.read(tmp_path / "wide.npz", made.source)
    for bad in (
        GOOD[:4],
        GOOD[:, 0],
        GOOD[:, :0],
        np.where(GOOD == 0, np.nan, GOOD),
        GOOD.astype(str),
    ):
        for fields in ({"features": bad, **more}, {"features": GOOD, "test_features": bad}):
            np.savez(tmp_path / "bad.npz", **fields)
            with pytest.raises(UserError, match=r"^teacher .*bad.npz' must hold finite .*features"):
                features.read(tmp_path / "bad.npz", made.source)
    (tmp_path / "cut.npz").write_bytes(b"PK")
    np.savez(tmp_path / "other.npz", a=GOOD)
    for name, message in (("cut", "cannot be read"), ("other", "teacher's field must be")):
        with pytest.raises(UserError, match=message):
            features.read(tmp_path / f"{name}.npz", made.source)


def command(*args):
    """`rmdnet noise ...`, in this process: (status, what it printed)."""
    from rmdnet_jax import cli

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        return cli.main(["noise", *map(str, args)]), out.getvalue()


def test_a_label_file_is_what_the_experiment_draws(tmp_path):
    status, text = command(
        "make", tmp_path / "labels.npz", "--kind", "pair", "--fields", "rate=0.3", "--seed", "4"
    )
    assert status == 0
    source = sources.load("digits")
    expected = noise.make("pair", num_classes=10, seed=4, rate=0.3).labels(
        np.arange(len(source.labels)), source.labels
    )
    with np.load(tmp_path / "labels.npz") as file:
        np.testing.assert_array_equal(file["labels"], expected)
        np.testing.assert_array_equal(file["clean"], source.labels)
        assert json.loads(str(file["about"])) == {
            "data": "digits",
            "name": "pair",
            "rate": 0.3,
            "seed": 4,
        }
    read = noise.make("file", num_classes=10, seed=0, path=str(tmp_path / "labels.npz"))
    np.testing.assert_array_equal(read.labels(np.arange(len(source.labels)), None), expected)
    found = noise.describe(source.labels, np.asarray(expected), 10)
    assert found["sha256"] in text
    assert f"{found['rate']:.4f} of the labels are wrong" in text
    assert command("show", tmp_path / "labels.npz", "--figure", tmp_path / "t.png") == (0, text)
    assert (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG"


def test_a_file_says_which_map_its_labels_are_drawn_by(tmp_path):
    assert command("make", tmp_path / "labels.npz", "--kind", "asymmetric")[0] == 0
    with np.load(tmp_path / "labels.npz") as file:
        assert json.loads(str(file["about"]))["mapping"] == "pair"
        moved = file["labels"] != file["clean"]
        np.testing.assert_array_equal(
            file["labels"][moved], (file["clean"][moved] + 1) % len(file["names"])
        )


def test_a_label_file_is_made_for_a_users_own_data(tmp_path):
    labels = np.arange(30) % 3
    np.savez(tmp_path / "own.npz", images=np.zeros((30, 2, 2), np.uint8), labels=labels)
    made = ("make", tmp_path / "y.npz", "--kind", "pair", "--fields", "rate=1.0")
    assert command(*made, "--data", tmp_path / "own.npz")[0] == 0
    with np.load(tmp_path / "y.npz") as file:
        np.testing.assert_array_equal(file["labels"], (labels + 1) % 3)
    named = ("--data", "npz", "--dir", tmp_path / "own.npz")
    assert command("show", tmp_path / "y.npz", *named)[0] == 0


def test_instance_noise_is_frozen_into_a_file(tmp_path):
    assert (
        command("make", tmp_path / "labels.npz", "--kind", "instance", "--fields", "rate=0.2")[0]
        == 0
    )
    source = sources.load("digits")
    expected = noise.make("instance", num_classes=10, seed=0, rate=0.2).labels(
        np.arange(len(source.labels)), source.labels, source.images
    )
    with np.load(tmp_path / "labels.npz") as file:
        np.testing.assert_array_equal(file["labels"], expected)


def test_label_files_are_compared(tmp_path):
    one = np.arange(50) % 5
    two = np.where(np.arange(50) < 12, (one + 1) % 5, one)
    np.save(tmp_path / "one.npy", one)
    np.savez(tmp_path / "two.npz", worse=two)
    assert command("diff", tmp_path / "one.npy", tmp_path / "one.npy") == (
        0,
        "0 of 50 labels differ (0.0000)\n",
    )
    status, text = command("diff", tmp_path / "one.npy", f"{tmp_path}/two.npz:worse")
    assert status == 1
    assert text.startswith("12 of 50 labels differ (0.2400)\n  example 0: 0 and 1\n")
    assert "and 2 more" in text
    np.save(tmp_path / "short.npy", one[:9])
    assert command("diff", tmp_path / "one.npy", tmp_path / "short.npy")[0] == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("show", "labels.txt"), "must end in .npy, .npz, .csv or .parquet"),
        (("show", "absent.npy"), "cannot be read"),
        (("make", "labels.csv"), "must end in .npz"),
        (("make", "labels.npz", "--kind", "pear"), "did you mean pair"),
        (
            ("make", "labels.npz", "--fields", "rate=2.0"),
            r"noise.rate must be in \[0, 1\], got 2.0",
        ),
        (("make", "labels.npz", "--fields", "speed=2.0"), "speed"),
        (("make", "labels.npz", "--seed", "-1"), "noise.seed must be"),
        (("make", "no/labels.npz"), "cannot be written"),
        (("show", "given.npy", "--data", "digits"), "must hold 1442 labels, .* got 3"),
        (("show", "many.npy", "--data", "digits"), r"must hold labels in \[0, 10\), got \[0, 10\]"),
        (("make", "labels.npz", "--kind", "file", "--fields", "path=given.npy"), "must hold 1442"),
        (("make", "labels.npz", "--kind", "file"), "noise.path must name a"),
        (("show", "given.npy", "--figure", "x.png"), "needs clean labels"),
        (("show", "three.npz", "--figure", "x.pdf"), "must end in .png"),
        (("show", "three.npz", "--figure", "given.npy/x.png"), "cannot be written"),
        (("show", "three.npz", "--figure", "~nobodyknows/x.png"), "--figure must be a path"),
    ],
)
def test_the_label_tool_says_what_is_wrong(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("given.npy", np.array([0, 1, 2]))
    np.save("many.npy", np.arange(1442) % 11)
    np.savez("three.npz", labels=np.array([0, 1, 2]), clean=np.array([0, 1, 1]))
    status, text = command(*args)
    assert status == 2
    assert re.search(message, text.splitlines()[-1])


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.5, 1.0])
def test_instance_noise_moves_as_many_as_it_says(rate):
    """None at 0, all at 1; near both, the half of the normal that is cut off moves the mean."""
    n = 3000
    images = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 1)).astype(np.uint8)
    clean = np.arange(n) % CLASSES
    made = noise.make("instance", num_classes=CLASSES, seed=0, rate=rate)
    moved = np.mean(made.labels(np.arange(n), clean, images) != clean)
    if rate in (0, 1):
        assert moved == rate
    else:
        assert moved == pytest.approx(rate, abs=0.4 * rate + 3 * (rate * (1 - rate) / n) ** 0.5)


# --- a file of labels, held against its data set

NAMES = ("cat", "dog", "owl")
FILES = ("train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "train/owl/9.png")
GIVEN = [2, 0, 1, 1]


def given_of(tmp_path, text, name="labels.csv", field="labels", names=NAMES, **more):
    (tmp_path / name).write_text(text)
    more = {"total": 4, "images": FILES, **more}
    return given.read(str(tmp_path / name), field, names, **more).tolist()


@pytest.mark.parametrize(
    "text",
    [
        "owl\ncat\ndog\ndog\n",
        "label\nowl\ncat\ndog\ndog\n",
        "\ufefflabel\r\nowl\r\ncat\r\ndog\r\ndog\r\n",
        '"label"\n"owl"\n"cat"\n"dog"\n"dog"\n',
        "2\n0\n1\n1\n",
        "file,label\ntrain/owl/9.png,dog\ntrain/dog/1.png,dog\ncat/2.png,cat\ncat/1.png,owl\n",
        "Filename;Class\n9.png;dog\ndog/1.png;dog\n2.png;cat\ncat/1.png;owl\ntest/a.png;cat\n",
        "label,path\n1,./train/owl/9.png\n1,dog/1.png\n0,2.png\n2,cat\\1.png\n",
        "train/owl/9.png,dog\ndog/1.png,dog\n2.png,cat\ncat/1.png,owl\n",
        "index,label\n3,dog\n1,cat\n0,owl\n2,dog\n",
    ],
)  # fmt: skip
def test_a_table_of_labels_is_read_as_it_is_meant(text, tmp_path):
    assert given_of(tmp_path, text) == GIVEN


def test_numbers_that_are_names_of_classes_are_names(tmp_path):
    names = ("1", "2", "10")
    assert given_of(tmp_path, "10\n1\n2\n2\n", names=names) == GIVEN
    np.save(tmp_path / "labels.npy", np.array([10.0, 1, 2, 2]))
    path = str(tmp_path / "labels.npy")
    assert given.read(path, "labels", names, total=4).tolist() == GIVEN
    assert given_of(tmp_path, "2\n0\n1\n1\n", names=names) == GIVEN  # else they are places


def test_a_limit_picks_its_own_labels(tmp_path):
    rows = np.array([1, 3])
    cut = {"rows": rows, "images": [FILES[row] for row in rows]}
    assert given_of(tmp_path, "owl\ncat\ndog\ndog\n", **cut) == [0, 1]
    table = "file,label\n9.png,dog\ndog/1.png,owl\n2.png,cat\ncat/1.png,owl\n"
    assert given_of(tmp_path, table, **cut) == [0, 1]
    by_index = "index,label\n0,owl\n3,dog\n1,cat\n"
    assert given_of(tmp_path, by_index, **{**cut, "images": ()}) == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("owl\ncat\ndog\n", "hold 4 labels, one for each training example, got 3"),
        ("owl\ncat\ndog\nhen\n", "label must be one of the known names, got 'hen'"),
        ("3\n0\n1\n1\n", r"hold labels in \[0, 3\), got \[0, 3\]"),
        ("owl\ncat\ndog\n1\n", "label must be one of the known names, got '1'"),
        ("-1\n0\n1\n1\n", r"hold labels in \[0, 3\), got \[-1, 1\]"),
        ("0.5\n0\n1\n1\n", "label must be one of the known names, got '0.5'"),
        ("file,label\n9.png,dog\n2.png,cat\n", "got none for 2 of 4, such as train/cat/1.png"),
        ("file,label\n/far/9.png,dog\n2.png,cat\n", "no example is called '/far/9.png'"),
        ("file,label,label\n9.png,dog,cat\n", "have one column 'label', got 2"),
        ("index,index,label\n0,0,cat\n", "have one column 'index', got 2"),
        ("file,label\n1.png,dog\n", "tell files apart by their class folder, got '1.png'"),
        ("file,label\n9.png,dog\nowl/9.png,cat\n", "name each example once, got train/owl/9.png"),
    ],
)
def test_a_table_of_labels_that_does_not_fit_is_refused(text, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        given_of(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_labels_in_another_order_are_told_from_wrong_ones():
    clean = np.repeat(np.arange(10), 100)
    rng = np.random.default_rng(0)
    fifth = np.where(rng.random(1000) < 0.2, (clean + 1) % 10, clean)
    most = np.where(rng.random(1000) < 0.7, rng.integers(0, 10, 1000), clean)
    assert given.by_chance(clean, fifth) == given.by_chance(clean, most) == ""
    for other in (rng.permutation(fifth), (fifth + 1) % 10, clean[::-1]):
        assert "no more than chance (1" in given.by_chance(clean, other)
    rare = (np.arange(1000) < 50).astype(int)  # 90 % would agree by chance
    assert "chance (90" in given.by_chance(rare, rng.permutation(rare))


def test_a_record_of_very_many_classes_stays_small():
    clean = np.arange(30000) % 3001
    moved = np.where(np.arange(30000) % 7 == 0, (clean + 5) % 3001, clean)
    found = noise.describe(clean, moved, 3001)
    assert len(json.dumps(found)) < 3001 * 200
    assert len(found["transition"]) == 3001
    for row in (0, 17, 3000):
        inside = clean == row
        slow = {str(c): np.mean(moved[inside] == c) for c in {*moved[inside].tolist()}}
        assert found["transition"][row] == pytest.approx(slow, abs=1e-6)

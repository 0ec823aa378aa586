"""Data sources against constructed inputs.

Every array that is read back was made, or is decoded again by hand, in this file.
"""

import importlib.util
import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmdnet_jax.data import folder, records, sources, store
from rmdnet_jax.data import tfds as loader
from rmdnet_jax.data.encoded import Encoded
from rmdnet_jax.errors import UserError, under
from rmdnet_jax.files import digest
from rmdnet_jax.labels import given

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
TOOL = SHARED / "tools" / "prepare_cifar10.py"

# Prepares small TFDS data sets of the official builders' shapes in argv[1]; example i of split s
# holds made_image(s, i). One process for all, for TensorFlow takes seconds to start: it also reads
# the tfrecord files, and runs the tool that writes real CIFAR-10 images where there is one.
PREPARE = """
import os
import runpy
import sys
import numpy as np
import tensorflow_datasets as tfds
root, tests, tool = sys.argv[1:]
sys.path.insert(0, tests)
from test_sources import made_image, made_label, sources, store

def prepare(name, folder, make, names=(), file_format="array_record", **counts):
    def split_generators(self, manager):
        for key, values in dict(names).items():
            self.info.features[key].names = values
        return {split: examples(split, count) for split, count in counts.items()}
    def examples(split, count):
        return ((i, make(split, i)) for i in range(count))
    cls = tfds.builder_cls(name)
    cls._split_generators = split_generators
    cls(data_dir=f"{root}/{folder}", file_format=file_format).download_and_prepare()

def ten(split, i, first=0):
    image, label = made_image(split, i), made_label(split, i)
    return {"id": f"{split}_{i + first:05d}", "image": image, "label": label}

prepare("cifar10", "record", ten, train=40, test=12)
prepare("cifar10", "tfrecord", ten, file_format="tfrecord", train=40, test=12)
os.environ["RMDNET_CACHE"] = f"{root}/cache"
read = sources.load("cifar10", dir=f"{root}/tfrecord")
np.savez(f"{root}/tfrecord.npz", **{field: getattr(read, field) for field in store.FIELDS})
prepare("cifar10", "offset", lambda split, i: ten(split, i, first=1), train=40, test=12)
fine = {"label": [f"fine{i}" for i in range(100)]}
fine["coarse_label"] = [f"coarse{i}" for i in range(20)]
hundred = lambda split, i: ten(split, i) | {"label": 99 - i, "coarse_label": i % 20}
prepare("cifar100", "record", hundred, fine, train=30, test=8)
human = ("worse_label", "aggre_label", "random_label1", "random_label2", "random_label3")
workers = {f"worker{i}_{what}": 0 for i in (1, 2, 3) for what in ("id", "time")}
wrong = lambda split, i: ten(split, i) | workers | {key: (i + 3) % 10 for key in human}
prepare("cifar10_n", "record", wrong, train=40, test=12)
grey = lambda split, i: made_image(split, i)[:28, :28, :1]
digit = lambda split, i: {"image": grey(split, i), "label": made_label(split, i)}
prepare("mnist", "record", digit, train=20)
def flower(split, i):
    image = made_image(split, i)[: 32 - 2 * i]
    return {"image": image, "label": -1 if split == "test" else i % 5}
prepare("tf_flowers", "record", flower, train=6, test=3, validation=4)
if tool:
    sys.argv[1:] = ["--data_dir", f"{root}/real", "--train", "60", "--test", "10"]
    runpy.run_path(tool, run_name="__main__")
"""


def made_image(split, i):
    """The image of example i: noise that no two examples share."""
    return np.random.default_rng([len(split), i]).integers(0, 256, (32, 32, 3), np.uint8)


def made_label(split, i):
    return (7 * i + len(split)) % 10


def made(split, count):
    return np.stack([made_image(split, i) for i in range(count)]), [
        made_label(split, i) for i in range(count)
    ]


def cifar10():
    return sources.Source("cifar10", *made("train", 40), *made("test", 12), tuple("0123456789"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Every test has a cache of its own."""
    monkeypatch.setenv("RMDNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A folder of prepared TFDS data sets; another process writes it, to keep TensorFlow out."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("preparing data sets needs TensorFlow: the extra tfds")
    folder = tmp_path_factory.mktemp("tfds")
    python(PREPARE, folder, ROOT / "tests", TOOL if TOOL.exists() else "")
    return folder


def python(code, *args):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def error(name, **arguments):
    """The one line that the user sees."""
    with pytest.raises(UserError) as caught:
        sources.load(name, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def write_folder(root, files):
    for name, image in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image if isinstance(image, bytes) else png(image))
    return str(root)


def forbid(monkeypatch, module, name):
    def fail(*args, **kwargs):
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(module, name, fail)


def assert_equal(one, other):
    for field in [field for field in sources.Source._fields if field != "stored"]:
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)


def test_digits_are_split_within_each_class():
    from sklearn.datasets import load_digits

    data, source = load_digits(), sources.load("digits")
    seen, train, test = dict.fromkeys(range(10), 0), [], []
    for i, label in enumerate(data.target):
        seen[label] += 1
        (test if seen[label] % 5 == 0 else train).append(i)
    for images, labels, rows in (
        (source.images, source.labels, train),
        (source.test_images, source.test_labels, test),
    ):
        assert images.shape == (len(rows), 8, 8, 1)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_allclose(
            images[..., 0] / 255, data.images[rows] / 16, atol=0.5 / 255 + 1e-9
        )
        np.testing.assert_array_equal(labels, data.target[rows])
    assert len(train) + len(test) == 1797
    assert source.names == tuple("0123456789")


def test_digits_are_read_without_importing_scikit_learn(monkeypatch):
    code = "import sys\nfrom rmdnet_jax.data import sources\nsources.load('digits')\n"
    assert python(code + "print('sklearn' in sys.modules)").split() == ["False"]
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda _: None)
    assert "scikit-learn" in error("digits")


@pytest.mark.parametrize("limit", [10, 25, 700])
def test_limit_samples_all_classes_in_their_shares_by_seed(limit):
    whole = sources.load("digits")
    cut, again = (sources.load("digits", limit=limit, seed=3) for _ in range(2))
    assert_equal(cut, again)
    rows = cut.rows
    assert rows.tolist() == sorted({*rows.tolist()})
    assert len(rows) == limit
    assert_equal(
        cut,
        whole._replace(images=whole.images[rows], labels=whole.labels[rows], rows=rows, total=1442),
    )
    counts = np.bincount(cut.labels, minlength=10)
    assert counts.min() >= 1
    exact = np.bincount(whole.labels) * limit / len(whole.labels)
    assert np.abs(counts - exact).max() <= 1
    other = sources.load("digits", limit=limit, seed=4)
    assert (other.rows != rows).any()


def test_a_limit_beyond_all_examples_cuts_nothing():
    assert_equal(sources.load("digits", limit=10**6), sources.load("digits"))


def test_a_rare_class_keeps_an_example_and_a_cut_can_be_cut():
    labels = np.array([0] * 500 + [1] * 2 + [2] * 500)
    source = sources.arrays(np.zeros((1002, 2, 2), np.uint8), labels)
    once = source.cut(50)
    assert np.bincount(once.labels).min() == 1
    twice = once.cut(3)
    np.testing.assert_array_equal(labels[twice.rows], [0, 1, 2])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"limit": -1}, ["limit", "-1", ">= 0"]),
        ({"limit": 1.5}, ["limit", "1.5"]),
        ({"limit": True}, ["limit", "True"]),
        ({"image_size": 0}, ["image_size", "0", ">= 1"]),
        ({"image_size": "32"}, ["image_size", "'32'"]),
    ],
)
def test_numbers_are_checked(arguments, words):
    message = error("digits", **arguments)
    assert all(word in message for word in words), message


GOOD = {
    "images": np.arange(5 * 4 * 3 * 3, dtype=np.uint8).reshape(5, 4, 3, 3),
    "labels": np.array([0, 2, 1, 2, 0]),
}
TEST = {"test_images": GOOD["images"][:2] + 1, "test_labels": np.array([1, 0], np.uint8)}


def write_npz(tmp_path, arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return str(tmp_path / "data.npz")


def test_npz_reads_what_was_written(tmp_path):
    source = sources.load(
        "npz", dir=write_npz(tmp_path, GOOD | TEST | {"names": ["a", "b", "c", "d"]})
    )
    assert_equal(source, sources.Source("npz", **GOOD, **TEST, names=("a", "b", "c", "d")))
    assert {source.labels.dtype, source.test_labels.dtype} == {np.dtype(np.int32)}


def test_npz_needs_no_channel_test_set_or_names(tmp_path):
    source = sources.load("npz", dir=write_npz(tmp_path, GOOD | {"images": GOOD["images"][..., 0]}))
    np.testing.assert_array_equal(source.images, GOOD["images"][..., :1])
    assert source.test_images.shape == (0, 4, 3, 1)
    assert source.test_labels.shape == (0,)
    assert source.names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": None}, ["no images"]),
        ({"labels": None}, ["no labels"]),
        ({"images": GOOD["images"].astype(float)}, ["images", "uint8", "float64"]),
        ({"images": GOOD["images"][0, 0]}, ["images", "[3, 3]"]),
        ({"images": np.uint8(3)}, ["images", "uint8 []"]),
        ({"images": np.zeros((5, 4, 3, 7), np.uint8)}, ["images", "[5, 4, 3, 7]"]),
        ({"images": GOOD["images"][:0], "labels": GOOD["labels"][:0]}, ["images", "[0, 4, 3, 3]"]),
        ({"images": GOOD["images"][:4]}, ["labels", "[4]", "[5]"]),
        ({"labels": GOOD["labels"] * 1.0}, ["labels", "integers", "float64"]),
        ({"labels": GOOD["labels"][:, None]}, ["labels", "[5, 1]"]),
        ({"labels": GOOD["labels"] - 1}, ["labels", "-1 to 1"]),
        ({"labels": GOOD["labels"] + 2**40}, ["labels", str(2**40)]),
        ({"labels": GOOD["labels"].astype(object)}, ["pickled"]),
        ({"names": np.array(["a", "b"])}, ["names", "3 classes", "[2]"]),
        ({"names": np.arange(3)}, ["names", "string", "int64"]),
        ({"names": np.array(["a", "b", "a"])}, ["names", "'a' twice"]),
        ({"test_images": TEST["test_images"]}, ["test_labels", "[2]", "[0]"]),
        ({"test_labels": TEST["test_labels"]}, ["test_labels", "[0]", "[2]"]),
        (TEST | {"test_images": TEST["test_images"][:, :3]}, ["test_images", "[2, 3, 3, 3]"]),
        (TEST | {"test_labels": np.array([0, -5])}, ["labels", "-5"]),
        (TEST | {"test_labels": np.array([0, 9]), "names": list("abc")}, ["names", "10 classes"]),
    ],
)
def test_npz_errors(tmp_path, change, words):
    path = write_npz(
        tmp_path, {field: value for field, value in (GOOD | change).items() if value is not None}
    )
    message = error("npz", dir=path)
    assert all(word in message for word in ["dir", path, *words]), message


@pytest.mark.parametrize(
    "content", [None, b"", b"no zip", b"PK\x03\x04 cut off", "npy", "folder", "no dir"]
)
def test_npz_files_that_are_none(tmp_path, content):
    path = tmp_path / "data.npz"
    if content == "npy":
        with path.open("wb") as file:
            np.save(file, GOOD["images"])
    elif content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    name = "" if content == "no dir" else str(path)
    assert error("npz", dir=name).startswith(
        f"dir must be a .npz file of plain arrays (no pickled objects), got {name!r}: "
    )


@pytest.mark.parametrize("kind", ["uint8", "float64", "float32", "float16", "jax", "torch", "list"])
def test_arrays_of_any_kind_give_the_same_source(kind):
    """k / 255 comes back as k, for each k in 0, ..., 255, in every type that tells them apart."""
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 4, 4)
    if kind == "jax":
        import jax.numpy as jnp

        images = jnp.asarray(pixels, jnp.float32) / 255
    elif kind == "torch":
        images = pytest.importorskip("torch").tensor(pixels) / 255
    elif kind == "list":
        images = (pixels / 255).tolist()
    else:
        images = pixels if kind == "uint8" else (pixels / 255).astype(kind)
    source = sources.arrays(images, [5, -7] * 8, images[:2], [-7, -7])
    expected = sources.Source(
        "arrays", pixels[..., None], [1, 0] * 8, pixels[:2, ..., None], [0, 0], ("-7", "5")
    )
    assert_equal(source, expected)
    assert (source.images.dtype, source.labels.dtype) == (np.uint8, np.int32)


def test_arrays_name_their_classes():
    images = np.zeros((3, 4, 4), np.uint8)

    def classes(labels, names=None):
        source = sources.arrays(images, labels, names=names)
        return source.labels.tolist(), source.names

    assert classes(["dog", "cat", "dog"]) == ([1, 0, 1], ("cat", "dog"))
    assert classes([3, 1, 3], ["one", "three"]) == ([1, 0, 1], ("one", "three"))
    assert classes([2, 0, 2], ["a", "b", "c"]) == ([2, 0, 2], ("a", "b", "c"))
    empty = sources.arrays(images, [0, 1, 1])
    assert (empty.test_images.shape, empty.test_labels.shape) == ((0, 4, 4, 1), (0,))
    part = sources.arrays(images, [0, 2, 0], images, [1, 1, 2], ["a", "b", "c"])
    assert part.test_labels.tolist() == [1, 1, 2]


GREY = np.linspace(0, 1, 5 * 16, dtype=np.float32).reshape(5, 4, 4)
ARRAYS = {"images": GREY, "labels": list("abcab")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": GREY * 255}, ["images must", "0 to 255", "images.astype(np.uint8)"]),
        ({"images": (GREY * 255).astype(int)}, ["images must", "int64", "astype(np.uint8)"]),
        ({"images": GREY - 0.5}, ["images must", "-0.5 to 0.5", "undo the normalisation"]),
        ({"images": GREY + np.nan}, ["images must", "NaN"]),
        ({"images": np.full((5, 4, 4), "x")}, ["images must", "<U1"]),
        ({"images": GREY > 0}, ["images must", "bool"]),
        ({"images": [[1], [1, 2]]}, ["images must"]),
        ({"images": GREY[0]}, ["images must", "[4, 4]"]),
        ({"images": np.zeros((5, 3, 32, 32))}, ["images must", "channels last", "np.moveaxis"]),
        ({"images": GREY[:0]}, ["images must"]),
        ({"labels": list("abca")}, ["labels must", "[5]", "[4]"]),
        ({"labels": [0.5] * 5}, ["labels must", "0.5"]),
        ({"labels": np.zeros((5, 3))}, ["labels must", "(5, 3)"]),
        ({"labels": [None] * 5}, ["labels must", "None"]),
        ({"names": ["x", "y"]}, ["names must", "3 classes", "2"]),
        ({"names": list("vwxyz")}, ["names must", "5 for 3 classes", "'a'"]),
        ({"names": ["x", "y", "x"]}, ["names must", "'x' twice"]),
        ({"test_images": GREY}, ["test_labels must be given"]),
        ({"test_labels": [0]}, ["test_images must be given"]),
        ({"test_images": GREY, "test_labels": list("aaaad")}, ["test_labels must", "'d'"]),
        ({"test_images": GREY, "test_labels": list("aa")}, ["test_labels must", "[5]", "[2]"]),
        ({"test_images": GREY[:, 1:], "test_labels": list("aaaaa")}, ["test_images", "[4, 4, 1]"]),
        ({"test_images": GREY * 9, "test_labels": list("aaaaa")}, ["test_images must", "0 to 9"]),
    ],
)
def test_arrays_errors(change, words):
    with pytest.raises(UserError) as caught:
        sources.arrays(**ARRAYS | change)
    assert all(word in str(caught.value) for word in words), caught.value
    assert str(caught.value).startswith(words[0])
    assert caught.value.argument
    assert "\n" not in str(caught.value)


def test_a_config_puts_its_path_in_front():
    with (
        pytest.raises(
            UserError, match=r"^data\.name must be .* got 'cifar1': did you mean cifar10"
        ),
        under("data"),
    ):
        sources.load("cifar1")


def plain(value, height=8, width=8):
    return np.full((height, width, 3), value, np.uint8)


def test_folder_sorts_classes_and_files(tmp_path):
    files = {
        "train/b/2.png": plain(1),
        "train/b/1.PNG": plain(2),
        "train/a/9.png": plain(3),
        "test/b/0.png": plain(4),
    }
    others = dict.fromkeys(
        ["train/b/.hidden.png", "train/b/readme", "train/notes.txt", "train/.git/0.png"],
        b"no image",
    )
    directory = write_folder(tmp_path / "data", files | others)
    with pytest.warns(UserWarning, match=r"2 files in .* left out: train/b/readme, train/notes"):
        source = sources.load("folder", dir=directory, image_size=8)
    expected = np.stack([plain(3), plain(2), plain(1)])
    assert_equal(
        source,
        sources.Source(
            "folder",
            expected,
            np.array([0, 1, 1]),
            plain(4)[None],
            np.array([1]),
            ("a", "b"),
            ("train/a/9.png", "train/b/1.PNG", "train/b/2.png"),
        ),
    )
    assert (source.images.dtype, source.labels.dtype, source.test_labels.dtype) == (
        np.uint8,
        np.int32,
        np.int32,
    )


def test_folder_converts_to_rgb(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    source = sources.load(
        "folder", dir=write_folder(tmp_path / "data", {"train/a/0.png": grey}), image_size=8
    )
    np.testing.assert_array_equal(source.images[0], np.stack([grey] * 3, -1))


@pytest.mark.parametrize(("height", "width"), [(16, 48), (48, 16)])
def test_folder_cuts_the_centre(tmp_path, height, width):
    """Noise around the central square is cut off, but for what the filter mixes into the border.

    The shorter side sets the scale.
    """
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    image[(height - 16) // 2 : (height + 16) // 2, (width - 16) // 2 : (width + 16) // 2] = [
        10,
        20,
        30,
    ]
    source = sources.load(
        "folder", dir=write_folder(tmp_path / "data", {"train/a/0.png": image}), image_size=8
    )
    np.testing.assert_array_equal(
        source.images[0, 1:-1, 1:-1], np.broadcast_to(np.uint8([10, 20, 30]), (6, 6, 3))
    )


def test_folder_resizes_with_antialiasing(tmp_path):
    """Halving with a triangle filter: weights 1, 3, 3, 1 over 8 a side, away from the border."""
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    source = sources.load(
        "folder", dir=write_folder(tmp_path / "data", {"train/a/0.png": image}), image_size=8
    )
    for row in range(1, 7):
        for column in range(1, 7):
            patch = image[2 * row - 1 : 2 * row + 3, 2 * column - 1 : 2 * column + 3].astype(float)
            expected = np.einsum("i,j,ijc->c", [1, 3, 3, 1], [1, 3, 3, 1], patch) / 64
            np.testing.assert_allclose(source.images[0, row, column], expected, atol=1.01)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"other/a/0.png": plain(0)}, ["train/<class>/"]),
        ({"train/0.png": plain(0)}, ["train/<class>/"]),
        ({"train/a/0.png": plain(0), "train/empty/readme": b""}, ["train/empty", ".png, *.jpg"]),
        ({"train/a/0.png": plain(0), "test/a/readme": b""}, ["test/a", ".png, *.jpg"]),
        ({"train/a/0.png": plain(0), "test/z/0.png": plain(0)}, ["test/z", "classes of train, a"]),
        (
            {"train/a/0.png": plain(0), "train/a/1.png": b"no image"},
            ["cannot read", "train/a/1.png"],
        ),
        (
            {"train/a/0.png": plain(0), "train/a/1.jpg": png(plain(0))[:45]},
            ["cannot read", "train/a/1.jpg"],
        ),
    ],
)
def test_folder_errors(tmp_path, cache, files, words):
    directory = write_folder(tmp_path / "data", files)
    message = error("folder", dir=directory)
    assert all(word in message for word in ["dir", directory, *words]), message
    assert not cache.exists() or not list(cache.iterdir()), "a failed start leaves nothing behind"


def test_folder_needs_a_dir(tmp_path, monkeypatch):
    monkeypatch.chdir(write_folder(tmp_path / "data", {"train/a/0.png": plain(0)}))
    assert "got ''" in error("folder")


def test_second_start_decodes_nothing_and_a_changed_file_decodes_again(tmp_path, monkeypatch):
    directory = write_folder(
        tmp_path / "data",
        {"train/a/0.png": plain(1), "train/b/0.png": plain(2), "test/b/0.png": plain(3)},
    )
    first = sources.load("folder", dir=directory)
    with monkeypatch.context() as patch:
        forbid(patch, folder, "decode")
        assert_equal(sources.load("folder", dir=directory), first)
        with pytest.raises(AssertionError, match="decode was called"):
            sources.load("folder", dir=directory, image_size=16)
    write_folder(tmp_path / "data", {"train/a/0.png": plain(9)})
    assert sources.load("folder", dir=directory).images[0, 0, 0, 0] == 9


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "missing", "noise", "pickle", "negative", "shape"]
)
def test_damaged_cache_is_decoded_again(tmp_path, cache, damage):
    directory = write_folder(
        tmp_path / "data", {"train/a/0.png": plain(1), "train/b/0.png": plain(2)}
    )
    first = sources.load("folder", dir=directory)
    expected = first._replace(images=np.array(first.images), labels=np.array(first.labels))
    del first
    images, labels = (next(cache.glob(f"folder-*/{field}.npy")) for field in ("images", "labels"))
    if damage == "missing":
        labels.unlink()
    elif damage in ("pickle", "negative", "shape"):
        arrays = {
            "pickle": np.array([None, {}], object),
            "negative": np.array([-1, 0], np.int32),
            "shape": np.zeros(3, np.int32),
        }
        np.save(labels, arrays[damage], allow_pickle=True)
    else:
        whole = images.read_bytes()
        images.unlink()
        images.write_bytes(
            {"cut": whole[: len(whole) // 2], "empty": b"", "noise": bytes(range(256)) * 30}[damage]
        )
    assert_equal(sources.load("folder", dir=directory), expected)
    assert_equal(store._read_cache("folder", images.parent), expected)


def test_killed_writer_leaves_no_cache_to_read(tmp_path, cache):
    """A process that dies while it decodes leaves a partial folder; the next start ignores it."""
    directory = write_folder(tmp_path / "data", {f"train/a/{i}.png": plain(i) for i in range(4)})
    code = """
import os, sys
from rmdnet_jax.data import folder, sources
decode = folder.decode
def die(images, items, title):
    decode(images, ((row, path) for row, path in list(items)[:2]), title)
    images.flush()
    os._exit(0)
folder.decode = die
sources.load("folder", dir=sys.argv[1], image_size=8)
"""
    python(code, directory)
    assert len(list(cache.rglob("images.npy"))) == 1, "the writer died before it wrote"
    source = sources.load("folder", dir=directory, image_size=8)
    np.testing.assert_array_equal(source.images[:, 0, 0, 0], range(4))


def test_the_cache_of_a_faster_process_is_left_alone(cache):
    def build(allocate):
        allocate("images", (4, 2, 2, 1))[:] = 7
        empty = np.zeros(0, np.int32)
        return store.Source(
            "x",
            np.full((4, 2, 2, 1), 7, np.uint8),
            np.arange(4, dtype=np.int32) % 2,
            np.zeros((0, 2, 2, 1), np.uint8),
            empty,
            ("a", "b"),
        )

    def slow(allocate):
        faster.append(store.cached("x", "here", "key", build).images.base)
        places.append(next(cache.glob("x-*")).stat().st_ino)
        return build(allocate)

    faster, places = [], []
    store.cached("x", "here", "key", slow)
    assert [path.stat().st_ino for path in cache.glob("x-*")] == places
    assert not list(cache.glob(".partial-*"))


def test_unwritable_cache_warns_and_goes_on(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RMDNET_CACHE", str(tmp_path / "file" / "cache"))
    directory = write_folder(tmp_path / "data", {"train/a/0.png": plain(7)})
    with pytest.warns(UserWarning, match="cannot write the cache") as caught:
        source = sources.load("folder", dir=directory, image_size=8)
    assert len(caught) == 1
    np.testing.assert_array_equal(source.images, plain(7)[None])


def test_tfds_rows_are_in_the_order_of_the_ids(prepared, monkeypatch):
    import tensorflow_datasets as tfds

    stored = [
        record["id"]
        for record in tfds.builder("cifar10", data_dir=prepared / "record").as_data_source(
            split="train"
        )
    ]
    assert stored != sorted(stored), (
        "the data set must be stored shuffled, or this test shows nothing"
    )
    source = sources.load("cifar10", dir=str(prepared / "record"))
    assert_equal(source, cifar10())
    assert (source.images.dtype, source.labels.dtype, source.test_labels.dtype) == (
        np.uint8,
        np.int32,
        np.int32,
    )
    forbid(monkeypatch, records, "_source")
    cut = sources.load("cifar10", dir=str(prepared / "record"), limit=9)
    rows = cut.rows
    assert_equal(
        cut,
        source._replace(
            images=source.images[rows], labels=source.labels[rows], rows=rows, total=40
        ),
    )


def test_tfrecord_reads_like_array_record(prepared):
    assert list((prepared / "tfrecord").rglob("*.tfrecord*"))
    with np.load(prepared / "tfrecord.npz") as read:
        assert_equal(
            sources.Source("cifar10", *(read[field] for field in store.FIELDS)),
            cifar10(),
        )


def test_prepared_data_are_read_without_tensorflow(prepared):
    code = """
import sys
from rmdnet_jax.data import sources
heavy = ("tensorflow", "tensorflow_datasets", "sklearn", "PIL")
print(*(module in sys.modules for module in heavy))
sources.load("cifar10", dir=sys.argv[1])
print(*(module in sys.modules for module in ("tensorflow", "tensorflow_datasets")))
"""
    assert python(code, prepared / "record").split() == ["False"] * 4 + ["False", "True"]


def test_tfrecord_without_tensorflow_is_an_error(prepared, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    message = error("cifar10", dir=str(prepared / "tfrecord"))
    assert all(word in message for word in ("dir", "tfrecord", "rmdnet_jax[tfds]")), message


def test_tfds_cifar100_has_fine_labels_and_names(prepared):
    source = sources.load("cifar100", dir=str(prepared / "record"))
    np.testing.assert_array_equal(source.images, made("train", 30)[0])
    np.testing.assert_array_equal(source.labels, 99 - np.arange(30))
    np.testing.assert_array_equal(source.test_images, made("test", 8)[0])
    np.testing.assert_array_equal(source.test_labels, 99 - np.arange(8))
    assert source.names == tuple(f"fine{i}" for i in range(100))


@pytest.mark.parametrize(("name", "folder"), [("mnist", "record"), ("cifar10", "offset")])
def test_tfds_without_usable_ids_keeps_the_order_on_disk(prepared, name, folder):
    import tensorflow_datasets as tfds

    stored = list(tfds.builder(name, data_dir=prepared / folder).as_data_source(split="train"))
    source = sources.load(name, dir=str(prepared / folder))
    np.testing.assert_array_equal(source.images, [record["image"] for record in stored])
    np.testing.assert_array_equal(source.labels, [record["label"] for record in stored])


def test_tfds_resizes_free_shapes_and_passes_over_a_test_set_without_labels(prepared):
    source = sources.load("tf_flowers", dir=str(prepared / "record"), image_size=12)
    assert source.images.shape == (6, 12, 12, 3)
    assert sorted(source.labels) == [0, 0, 1, 2, 3, 4]
    assert sorted(source.test_labels) == [0, 1, 2, 3], (
        "the validation split, not the test split of -1"
    )
    square = np.asarray(
        Image.fromarray(made_image("validation", 0)).resize((12, 12), Image.Resampling.BILINEAR)
    )
    np.testing.assert_array_equal(source.test_images[source.test_labels == 0], square[None])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifr10", ["name", "'cifr10'", "did you mean cifar10", "digits", "npz", "folder"]),
        ("folders", ["name", "did you mean folder"]),
        ("minst", ["name", "did you mean mnist"]),
        ("", ["name must be one of the known names, got ''"]),
        ("../x y", ["name must be one of the known names, got '../x y'"]),
        (
            "huggingface:mnist",
            ["name must be one of the known names, got 'huggingface:mnist'"],
        ),
        ("cifar10/no_config", ["name", "'cifar10/no_config'"]),
        ("imdb_reviews", ["name", "'imdb_reviews'", "`image`", "text"]),
    ],
)
def test_unknown_names(tmp_path, name, words):
    message = error(name, dir=str(tmp_path))
    assert all(word in message for word in words), message
    assert len(message) < 600, "TFDS knows hundreds of names"


@pytest.mark.parametrize("missing", ["network", "tensorflow", "space"])
def test_unprepared_data_set_says_how_to_prepare_it(tmp_path, monkeypatch, missing):
    import requests
    import tensorflow_datasets as tfds

    def head(url, timeout):
        if missing == "network":
            raise requests.ConnectionError("no route")

    def prepare(self, **arguments):
        assert missing == "space", "TFDS would try for minutes"
        assert arguments["file_format"] == "array_record"
        raise OSError("Not enough disk space.\nNeeded: all")

    monkeypatch.setattr(requests, "head", head)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", prepare)
    monkeypatch.setattr(
        loader,
        "import_tensorflow",
        loader.import_tensorflow if missing == "tensorflow" else lambda: None,
    )
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    message = error("cifar10", dir=str(tmp_path / "none"))
    reason = {
        "network": "(no network)",
        "tensorflow": "(import of tensorflow halted",
        "space": "(Not enough disk space.)",
    }[missing]
    words = [
        "dir",
        str(tmp_path / "none"),
        reason,
        "pip install 'rmdnet_jax[tfds]'",
        "builder('cifar10', data_dir='DIR').download_and_prepare",
    ]
    assert all(word in message for word in words), message
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("dir", ["$RMDNET_NOT_SET/x", "~nobodyknows/x"])
def test_a_path_of_tfds_that_cannot_be_is_one_line(dir):
    with pytest.raises(UserError, match=r"^dir must be a path, got .* is not "):
        sources.load("cifar10", dir=dir)


REFUSED = """
import pathlib
import sys
import tensorflow as tf
import tensorflow_datasets as tfds
from rmdnet_jax.data import sources
from rmdnet_jax.errors import UserError

def error(name):
    body = '{\\n  "error": {\\n    "message": "nobody@x may not list b."\\n  }\\n}'
    text = f"HTTP response code 403 with body '{body}'"
    return getattr(tf.errors, name)(None, None, text)

class Path:
    def exists(self):
        raise failing

class Builder:
    data_path = Path()
    info = tfds.builder("mnist", data_dir=sys.argv[1]).info

def builder(*args, **more):
    if step == "open":
        with tfds.core.utils.try_reraise("Failed to construct dataset: "):
            raise failing
    return Builder()

tfds.builder = builder
for name in ("PermissionDeniedError", "UnauthenticatedError", "NotFoundError",
             "FailedPreconditionError", "UnavailableError"):
    for step in ("open", "look"):
        failing = error(name)
        try:
            sources.load("mnist", dir="gs://b/x")
        except UserError as found:
            print(found)
"""


def test_what_a_bucket_refuses_is_one_line(tmp_path):
    """In a process of its own, to keep TensorFlow out; its errors are those of the file system."""
    pytest.importorskip("tensorflow_datasets")
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow reads buckets: the extra tfds")
    kinds = (
        "permission denied",
        "unauthenticated",
        "not found",
        "failed precondition",
        "unavailable",
    )
    assert python(REFUSED, tmp_path).splitlines() == [
        f"dir: 'gs://b/x' cannot be read: {kind}: nobody@x may not list b."
        for kind in kinds
        for _ in ("open", "look")
    ]


@pytest.mark.skipif(not TOOL.exists(), reason="the CIFAR-10 images are not beside the repository")
def test_cifar10_is_in_the_original_order(prepared):
    source = sources.load("cifar10", dir=str(prepared / "real"))
    assert (len(source.images), len(source.test_images)) == (60, 10)
    with np.load(SHARED / "data/cifar10_jpeg.npz") as archive:
        for split, images, labels in (
            ("train", source.images, source.labels),
            ("test", source.test_images, source.test_labels),
        ):
            blob, offsets = archive[f"{split}_blob"].tobytes(), archive[f"{split}_offsets"]
            for i, image in enumerate(images):
                original = Image.open(io.BytesIO(blob[offsets[i] : offsets[i + 1]])).convert("RGB")
                np.testing.assert_array_equal(image, np.asarray(original))
            np.testing.assert_array_equal(labels, archive[f"{split}_labels"][: len(images)])


@pytest.mark.filterwarnings("ignore")
def test_human_labels_of_tfds_are_in_the_original_order(prepared):
    from rmdnet_jax.app.load import get_config
    from rmdnet_jax.app.resolve import resolve
    from rmdnet_jax.app.setup import corrupt

    where = str(prepared / "record")
    source = sources.load("cifar10_n", dir=where)
    assert_equal(source._replace(name="cifar10"), cifar10())
    expected = (np.arange(40) + 3) % 10
    np.testing.assert_array_equal(loader.labels("cifar10_n", where, "worse_label"), expected)
    own = {"data": "cifar10_n", "dir": where, "limit": 30, "noise": "file", "field": "worse_label"}
    config = resolve(get_config("digits", own))
    cut = sources.load("cifar10_n", dir=where, limit=30)
    kind, given = corrupt(config, cut)
    np.testing.assert_array_equal(given, expected[cut.rows])
    assert kind.size == 30
    for field, near in (("worst_label", "did you mean worse_label"), ("label", "worse_label")):
        with pytest.raises(UserError, match=rf"^field must .*{near}"):
            loader.labels("cifar10_n", where, field)
    with pytest.raises(UserError, match="no label of its classes but its own"):
        loader.labels("cifar10", where, "worse_label")


def test_tfds_stays_encoded_in_the_order_of_the_ids(prepared, monkeypatch):
    where = str(prepared / "record")
    source = sources.load("cifar10", dir=where, stream=lambda size: True)
    assert isinstance(source.images, Encoded)
    assert isinstance(source.test_images, Encoded)
    assert_equal(source._replace(images=source.images[:], test_images=source.test_images[:]),
                 cifar10())  # fmt: skip
    rows = np.array([17, 3, 39, 3])
    np.testing.assert_array_equal(source.images[rows], cifar10().images[rows])
    assert digest(source.images) == digest(cifar10().images)
    monkeypatch.setattr(loader, "labelled", None)  # it is noted where each example lies
    again = sources.load("cifar10", dir=where, stream=lambda size: True, limit=9)
    np.testing.assert_array_equal(again.images[:], source.images[again.rows])
    flowers = sources.load("cifar10", dir=where, stream=lambda size: size > 52 * 32 * 32 * 3)
    assert isinstance(flowers.images, np.ndarray)


def test_tfds_of_free_shapes_stays_encoded_too(prepared):
    where = {"dir": str(prepared / "record"), "image_size": 12}
    found = sources.load("tf_flowers", stream=lambda size: True, **where)
    whole = sources.load("tf_flowers", **where)
    np.testing.assert_array_equal(found.images[:], whole.images)
    np.testing.assert_array_equal(found.test_images[:], whole.test_images)
    np.testing.assert_array_equal(found.test_labels, whole.test_labels)


def test_large_tfds_is_told_apart_by_its_records_in_both_pipelines(prepared, monkeypatch):
    monkeypatch.setattr(loader, "LOOKED_AT", 39)
    where = str(prepared / "record")
    one, two = (sources.load("cifar10", dir=where, stream=lambda _, x=x: x) for x in (True, False))
    for split in (0, 1):
        assert one.stored[split].digest() == two.stored[split].digest()
    assert one.stored[0].digest() != one.stored[1].digest()


def test_tfrecord_cannot_be_streamed_and_says_so(prepared):
    message = error("cifar10", dir=str(prepared / "tfrecord"), stream=lambda size: True)
    assert all(word in message for word in ("dir", "array records", "tfrecord")), message


# --- lists of images


def listed(root, text, name="list.csv"):
    (root / name).write_text(text)
    return str(root / name)


@pytest.fixture
def photos(tmp_path):
    write_folder(tmp_path, {f"p/{i}.png": made_image("train", i) for i in range(6)})
    return tmp_path


def images_of(*numbers):
    images = (Image.fromarray(made_image("train", i)) for i in numbers)
    return np.stack([image.resize((8, 8), Image.Resampling.BILINEAR) for image in images])


LISTS = {
    "names": ("file,label\np/3.png,dog\np/0.png,cat\np/5.png,dog\n", [1, 0, 1], ("cat", "dog")),
    "no heading": ("p/3.png,dog\np/0.png,cat\np/5.png,dog\n", [1, 0, 1], ("cat", "dog")),
    "numbers": ("label;path\n1;p/3.png\n0;p/0.png\n1;p/5.png\n", [1, 0, 1], ("0", "1")),
    "from one": ("image,class\np/3.png,10\np/0.png,9\np/5.png,10\n", [1, 0, 1], ("9", "10")),
    "more columns": (
        "width,file,given_label\n3,p\\3.png,b\n4,p/0.png,a\n5,p/5.png,b\n", [1, 0, 1], ("a", "b"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "in memory"])
def test_a_list_is_read_in_its_order(kind, stream, photos):
    text, labels, names = LISTS[kind]
    path = listed(photos, text)
    source = sources.load("table", dir=path, image_size=8, stream=lambda size: stream)
    np.testing.assert_array_equal(source.images[:], images_of(3, 0, 5))
    assert source.labels.tolist() == labels
    assert source.names == names
    assert source.files == ("p/3.png", "p/0.png", "p/5.png")
    assert source.test_images.shape == (0, 8, 8, 3)


def test_a_list_names_its_test_set_and_whole_paths(photos, tmp_path):
    rows = [
        ("p/1.png", "b", "train"),
        (tmp_path / "p/2.png", "a", "Train"),
        ("p/4.png", "a", "val"),
    ]
    text = "".join(f"{file},{label},{split}\n" for file, label, split in rows)
    for heading in ("", "file,label,split\n"):
        source = sources.load("table", dir=listed(photos, heading + text), image_size=8)
        np.testing.assert_array_equal(source.images, images_of(1, 2))
        np.testing.assert_array_equal(source.test_images, images_of(4))
        assert (source.labels.tolist(), source.test_labels.tolist()) == ([1, 0], [0])


def test_a_list_says_what_is_in_both_splits_and_takes_one_test_set(photos):
    rows = "p/1.png,a,train\np/2.png,b,train\np/1.png,b,test\n"
    with pytest.warns(UserWarning, match="1 image in train and test: p/1.png"):
        source = sources.load(
            "table", dir=listed(photos, "File,Label,Split\n" + rows), image_size=8
        )
    assert (source.names, len(source.labels), len(source.test_labels)) == (("a", "b"), 2, 1)
    text = error("table", dir=listed(photos, f"file,label,split\n{rows}p/3.png,a,val\n"))
    assert "have one name for the test images in column 'split', got 'test' and 'val'" in text


def test_a_list_may_name_files_from_the_home_on(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos))
    monkeypatch.setenv("PHOTOS", str(photos / "p"))
    files = ["~/p/1.png", "$PHOTOS/2.png", "${PHOTOS}/3.png", "p/~4.png"]
    shutil.copy(photos / "p/4.png", photos / "p/~4.png")
    text = "file,label\n" + "".join(f"{file},{i % 2}\n" for i, file in enumerate(files))
    source = sources.load("table", dir=listed(photos, text), image_size=8)
    np.testing.assert_array_equal(source.images, images_of(1, 2, 3, 4))
    (photos / "labels.csv").write_text(text)  # the same names are known there
    found = given.read(
        str(photos / "labels.csv"), "", source.names, total=4, rows=np.arange(4),
        images=source.files,
    )  # fmt: skip
    assert found.tolist() == [0, 1, 0, 1]
    text = error("table", dir=listed(photos, "file,label\n$RMDNET_NOT_SET/1.png,a\np/2.png,b\n"))
    assert "$RMDNET_NOT_SET is not set" in text


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_list_says_which_files_it_names_twice(split, photos):
    rows = "p/0.png,a,train\np/1.png,b,train\n" + "".join(
        f"{file},{label},{split}\n"
        for file, label in (
            ("p/2.png", "a"), ("p/2.png", "a"), ("p/3.png", "b"), ("p/./3.png", "a"),
            ("p/4.png", "b"),
        )
    )  # fmt: skip
    told = f"^2 images more than once in {split}: p/3.png \\(labels a, b\\), p/2.png$"
    with pytest.warns(UserWarning, match=told):
        source = sources.load(
            "table", dir=listed(photos, f"file,label,split\n{rows}"), image_size=8
        )
    assert len(source.labels) + len(source.test_labels) == 7, "all are kept"


def test_a_list_has_one_label_a_row(photos):
    import pandas

    path = photos / "x.parquet"
    pandas.DataFrame({"file": ["p/1.png", "p/2.png"], "label": [[0, 1], [1, 0]]}).to_parquet(path)
    assert "have one label a row in column 'label'" in error("table", dir=str(path))


@pytest.mark.parametrize("suffix", ["parquet"])
def test_a_list_may_be_parquet(suffix, photos):
    import pandas

    path = photos / f"list.{suffix}"
    pandas.DataFrame({"file": ["p/2.png", "p/1.png"], "label": [4, 3]}).to_parquet(path)
    source = sources.load("table", dir=str(path), image_size=8)
    np.testing.assert_array_equal(source.images, images_of(2, 1))
    assert (source.labels.tolist(), source.names) == ([1, 0], ("3", "4"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["dir must be a .csv", "no columns"]),
        ("file\np/1.png\n", ["a column of files and one of labels", "file"]),
        ("width,label\n1,a\n", ["a column of files", "width, label"]),
        ("file,label\np/1.png,\np/2.png,a\n", ["no empty cell", "row 0"]),
        ("file,label,split\np/1.png,a,train\np/2.png,b,test\n", ["'b' in test alone"]),
        ("file,label,split\np/1.png,a,tain\n", ["train or test", "'tain'"]),
        ("file,label,split\np/1.png,a,test\n", ["name training images"]),
        ("file,label\np/1.png,a\np/9.png,b\n", ["cannot read 1 image", "9.png"]),
        ("file,label\np/1.png,a,b\n", ["2 columns"]),
    ],
)
def test_lists_that_cannot_be_are_one_line(text, words, photos):
    message = error("table", dir=listed(photos, text), image_size=8)
    assert all(word in message for word in words), message


def test_no_list_is_one_line(tmp_path):
    for path in ("", str(tmp_path), str(tmp_path / "absent.csv"), "gs://b/list.csv"):
        assert error("table", dir=path).startswith("dir")


# --- data sets that are given out as folders and lists


def published(root):
    """Small folders of the layouts that Clothing1M and WebVision are given out in."""
    clothes, web = root / "clothing1m", root / "webvision"
    keys = [f"images/{i}/0{i}/{i},{i}.jpg" for i in range(6)]
    write_folder(clothes, {key: made_image("train", i) for i, key in enumerate(keys)})
    lists = {
        "noisy_train_key_list.txt": [keys[4], keys[0], keys[2]],
        "noisy_label_kv.txt": [f"{key} {13 - i}" for i, key in enumerate(keys)],
        "clean_test_key_list.txt": [keys[2], keys[5]],
        "clean_label_kv.txt": [f"{keys[5]} 9", f"{keys[2]} 13"],
    }
    for name, lines in lists.items():
        listed(clothes, "\n".join(lines) + "\n", name)
    write_folder(web, {f"google/q0001/{i}.jpg": made_image("train", i) for i in range(4)})
    write_folder(web, {f"val_images_256/val{i}.jpg": made_image("test", i) for i in range(3)})
    (web / "info").mkdir()
    found = "".join(f"google/q0001/{i}.jpg {(3, 49, 50, 999)[i]}\n" for i in range(4))
    listed(web / "info", found, "train_filelist_google.txt")
    listed(web / "info", "val0.jpg 3\nval1.jpg 50\nval2.jpg 49\n", "val_filelist.txt")
    return clothes, web


@pytest.mark.parametrize("inner", [False, True], ids=["beside images", "in annotations"])
def test_clothing1m_is_read_as_it_is_given_out(inner, tmp_path):
    root, _ = published(tmp_path)
    if inner:
        (root / "annotations").mkdir()
        for path in root.glob("*.txt"):
            path.rename(root / "annotations" / path.name)
    source = sources.load("clothing1m", dir=str(root), image_size=8, stream=lambda size: True)
    np.testing.assert_array_equal(source.images[:], images_of(4, 0, 2))
    np.testing.assert_array_equal(source.test_images[:], images_of(2, 5))
    assert (source.labels.tolist(), source.test_labels.tolist()) == ([9, 13, 11], [13, 9])
    assert len(source.names) == 14


@pytest.mark.parametrize(("name", "kept"), [("webvision", 4), ("mini_webvision", 2)])
def test_webvision_is_read_as_it_is_given_out(name, kept, tmp_path):
    _, root = published(tmp_path)
    source = sources.load(name, dir=str(root), image_size=8, stream=lambda size: True)
    np.testing.assert_array_equal(source.images[:], images_of(*range(kept)))
    assert source.labels.tolist() == [3, 49, 50, 999][:kept]
    assert source.test_labels.tolist() == ([3, 50, 49] if kept == 4 else [3, 49])
    assert source.files[0] == "google/q0001/0.jpg"
    assert len(source.names) == (1000 if kept == 4 else 50)
    lines = [f"n{i:08} crane" for i in range(1000)]
    listed(root / "info", "\n".join(lines), "synsets.txt")
    again = sources.load(name, dir=str(root), image_size=8, stream=lambda size: True)
    assert again.names == tuple(lines[: len(source.names)])


@pytest.mark.parametrize(
    ("name", "file", "text", "words"),
    [
        ("clothing1m", "noisy_label_kv.txt", "images/0.jpg 1\n", ["a label of", "4,4.jpg"]),
        ("clothing1m", "noisy_train_key_list.txt", None, ["key_list.txt", "cannot be read"]),
        ("clothing1m", "clean_label_kv.txt", "images/2.jpg\n", ["a class number", "images/2.jpg"]),
        ("webvision", "info/val_filelist.txt", "val0.jpg 1000\n", ["[0, 1000)", "val0.jpg"]),
        ("mini_webvision", "info/val_filelist.txt", "val0.jpg x\n", ["class number", "val0.jpg x"]),
    ],
)
def test_lists_that_are_damaged_are_one_line(name, file, text, words, tmp_path):
    root = published(tmp_path)[name != "clothing1m"]
    if text is None:
        (root / file).unlink()
    else:
        listed(root, text, file)
    message = error(name, dir=str(root), image_size=8)
    assert message.startswith("dir")
    assert all(word in message for word in words), message
    assert error(name, dir=str(root / "absent")).startswith(f"dir must be the folder of {name}")

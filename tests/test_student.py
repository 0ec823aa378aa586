"""A student predicts as its peers do together, survives a file, and refuses what it cannot take."""

import dataclasses
import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from rmdnet_jax.app import experiment
from rmdnet_jax.app.schema import choice, put
from rmdnet_jax.app.student import CUSTOM, Student, load
from rmdnet_jax.errors import UserError
from rmdnet_jax.networks import weights
from rmdnet_jax.networks.adapters import adapt
from rmdnet_jax.networks.encoders import ENCODERS
from rmdnet_jax.networks.layers import Network
from rmdnet_jax.training.objectives import classifier
from rmdnet_jax.types import Variables

RNG = np.random.default_rng(0)
CNN = {"name": "cnn", "widths": (4, 8), "dtype": "float32"}


class Flat(nn.Module):
    """Takes images of one size only; a parameter and a statistic share the name `mean`."""

    @nn.compact
    def __call__(self, x, train):
        self.param("mean", nn.initializers.ones, (3,))
        average = self.variable("batch_stats", "mean", jnp.zeros, (3,))
        if train:
            average.value = average.value + 1.0
        x = x + average.value
        return nn.relu(nn.Dense(6)(x.reshape(len(x), -1)))


class Own(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 5, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.norm(self.conv(x))).mean((1, 2))


def made(described=CNN, given=None, peers=1, shape=(8, 8, 1), classes=("a", "b", "c")):
    """A student whose arrays are all arbitrary."""
    fields = {name: value for name, value in described.items() if name != "name"}
    network = ENCODERS[described["name"]](**fields) if given is None else adapt(given)
    whole = classifier(network, len(classes))
    shapes = jax.eval_shape(whole.init, jax.random.key(0), jnp.zeros((1, *shape)))
    params, stats = zip(
        *(
            jax.tree.map(lambda x: RNG.uniform(0.1, 1.0, x.shape).astype(x.dtype), shapes)
            for _ in range(peers)
        )
    )
    mean, std = RNG.uniform(0.2, 0.8, (2, shape[-1])).astype(np.float32)
    return Student(network, Variables(params, stats), classes, mean, std, shape, described)


def pixels(n, shape=(8, 8, 1)):
    return RNG.integers(0, 256, (n, *shape)).astype(np.uint8)


STUDENTS = {
    "one peer": {},
    "two peers": {"peers": 2},
    "a residual network": {"described": {"name": "resnet18", "width": 2}, "shape": (9, 8, 3)},
    "an own Linen module": {"described": CUSTOM, "given": Flat(), "shape": (4, 4, 3), "peers": 2},
    "an own NNX module": {"described": CUSTOM, "given": Own},
}
all_students = pytest.mark.parametrize("fields", STUDENTS.values(), ids=STUDENTS)


@all_students
def test_it_says_what_its_peers_say_together(fields):
    student = made(**fields)
    images = pixels(5, student.image_shape)
    x = (images / np.float32(255) - student.mean) / student.std
    network = classifier(student.encoder, 3)
    peers = [
        network.apply(Variables(p, s), jnp.asarray(x), False)[0] for p, s in zip(*student.variables)
    ]
    logits = np.mean([peer.logits for peer in peers], axis=0, dtype=np.float64)
    p = np.exp(logits - logits.max(1, keepdims=True))
    found = student.predict(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, p / p.sum(1, keepdims=True), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(student.features(images), peers[0].feature, rtol=1e-3, atol=1e-5)


@all_students
def test_a_file_brings_it_back_bit_for_bit(fields, tmp_path):
    student = made(**fields)
    student.save(tmp_path / "student.safetensors")
    images = pixels(4, student.image_shape)
    for path in (tmp_path, str(tmp_path / "student.safetensors")):
        again = load(path, encoder=fields.get("given"))
        assert again.classes == student.classes
        assert again.image_shape == student.image_shape
        np.testing.assert_array_equal(again.predict(images), student.predict(images))
        np.testing.assert_array_equal(again.features(images), student.features(images))
    again.save(tmp_path / "again.safetensors")
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("student", "again"))
    assert one.keys() == two.keys()


def test_the_file_says_what_other_programs_need(tmp_path):
    student = made(peers=2)
    student.save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        about = {name: json.loads(value) for name, value in file.metadata().items()}
    assert about["encoder"] == {**CNN, "widths": [4, 8]}
    assert about["classes"] == ["a", "b", "c"]
    assert about["image_shape"] == [8, 8, 1]
    assert np.float32(about["std"]) == student.std
    state = load_file(tmp_path / "a.safetensors")
    first = Variables(*(trees[0]["encoder"] for trees in student.variables))
    torchvision = {**weights.state_dict(first), "fc.weight": None, "fc.bias": None}
    assert set(state) == {*torchvision, *(f"peer1.{name}" for name in torchvision)}
    kernel = student.variables.params[1]["head"]["kernel"]
    np.testing.assert_array_equal(state["peer1.fc.weight"], kernel.T)


def test_images_come_as_lists_arrays_and_without_their_one_channel():
    student, images = made(), pixels(3)
    expected = student.predict(images)
    for same in (images[..., 0], list(images), list(images[..., 0]), jnp.asarray(images)):
        np.testing.assert_array_equal(student.predict(same), expected)
    for kind in (np.float64, np.float32):
        np.testing.assert_array_equal(student.predict((images / 255).astype(kind)), expected)
    between = RNG.uniform(size=(3, 8, 8, 1)).astype(np.float32)
    rounded = np.round(255 * between).astype(np.uint8)
    np.testing.assert_array_equal(student.predict(between), student.predict(rounded))


def test_images_come_as_tensors():
    torch, student, images = pytest.importorskip("torch"), made(), pixels(3)
    floats = torch.tensor(images / np.float32(255), requires_grad=True)
    for same in (torch.tensor(images), floats):
        np.testing.assert_array_equal(student.predict(same), student.predict(images))


@pytest.mark.parametrize(
    ("classes", "kept"),
    [
        ((3, 1, 2), (3, 1, 2)),
        (tuple(np.arange(3)), (0, 1, 2)),
        ((False, True, "x"), (False, True, "x")),
        ((b"a", 1.0, "é"), ("b'a'", 1.0, "é")),
    ],
)
def test_a_file_keeps_the_classes_as_they_were_given(classes, kept, tmp_path):
    made(classes=classes).save(tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors").classes
    assert again == kept
    assert [*map(type, again)] == [*map(type, kept)]


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "format": ["1", None, 0],
        "encoder": ["cnn", {}, {"name": 3}, {**CNN, "widths": "ab"}, {**CNN, "depth": 2}],
        "classes": ["abc", [], [None], {"a": 1}, ["a", "b"]],
        "image_shape": [[8, 8], [8, 8, 0], [8, 8, "1"], 8, [8, 8, 3]],
        "mean": [0.5, [], ["a"], [[0.5]], [float("nan")]],
        "std": [1.0, [0.5, 0.5], None],
        "peers": [0, "1", 1.0, 2, True],
    }.items(),
)
def test_a_damaged_file_is_refused_in_one_line(name, values, tmp_path):
    file, student = tmp_path / "a.safetensors", made()
    student.save(file)
    state, about = load_file(file), weights.about(file, "path")
    cut = {key: value for key, value in about.items() if key != name}
    for changed in (cut, *({**about, name: value} for value in values)):
        weights.write(file, state, changed)
        with pytest.raises(UserError, match=r"^(path|encoder)[ .]") as caught:
            load(file)
        assert "\n" not in str(caught.value)
    weights.write(file, state, about)
    np.testing.assert_array_equal(load(file).predict(pixels(0)), student.predict(pixels(0)))


def test_any_number_of_images_is_predicted_by_one_program():
    student, traced = made(), []

    def apply(variables, x, train):
        traced.append(x.shape)
        return student.encoder.apply(variables, x, train)

    watched = dataclasses.replace(student, encoder=Network(student.encoder.init, apply))
    images = pixels(300)
    whole = watched.predict(images)
    for n in (0, 1, 127, 128, 129, 300):
        np.testing.assert_array_equal(watched.predict(images[:n]), whole[:n])
        assert watched.features(images[:n]).shape == (n, 8)
    assert len(traced) == 1
    for empty in ([], np.zeros((0, 8, 8)), np.zeros((0, 3, 3, 1), np.uint8)):
        assert watched.predict(empty).shape == (0, 3)


def test_images_of_another_size_are_taken_where_the_encoder_takes_them():
    assert made().predict(pixels(2, (13, 5, 1))).shape == (2, 3)
    with pytest.raises(
        UserError, match=r"^images must have a size .* \(4, 4, 3\), got \(5, 4, 3\)"
    ):
        made(CUSTOM, Flat(), shape=(4, 4, 3)).predict(pixels(2, (5, 4, 3)))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((2, 8, 8, 1), 1.5), r"be uint8 or floats in \[0, 1\], got float64 from 1.5"),
        (np.full((2, 8, 8, 1), np.nan), "be uint8 or floats .* NaN"),
        (np.zeros((2, 8, 8, 1), np.int64), r"be uint8 .* got int64 .*images\.astype"),
        (np.zeros((2, 1, 8, 8), np.uint8), "have their channels last"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"be \[n, .* 1 channel, got shape \(2, 8, 8, 3\)"),
        (np.zeros((8, 8, 1), np.uint8), r".* got shape \(8, 8, 1\); one image is images\[None\]"),
        (np.zeros((8, 8), np.uint8), r".* got shape \(8, 8\); one image is images\[None\]"),
        (np.zeros((2, 8, 0, 1), np.uint8), r".* got shape \(2, 8, 0, 1\)"),
        ([np.zeros((8, 8)), np.zeros((7, 8))], "be an array or a list, got list: setting an array"),
        ("cat.png", "be uint8 .* got <U7"),
        (None, "be uint8 .* got object"),
    ],
)
def test_other_images_are_refused_in_one_line(images, message):
    with pytest.raises(UserError, match=f"^images must {message}") as caught:
        made().predict(images)
    assert "\n" not in str(caught.value)


def test_other_paths_are_refused_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text("{}")
    (tmp_path / "broken.safetensors").write_bytes(b"not a file of weights")
    (tmp_path / "some.npz").touch()
    arrays = {"conv1.weight": np.zeros((4, 1, 3, 3), np.float32)}
    save_file(arrays, tmp_path / "bare.safetensors")
    save_file(arrays, tmp_path / "torch.safetensors", {"format": "pt"})
    about = {"encoder": CNN, "image_shape": [8, 8, 1], "classes": ["a"], "mean": [0], "std": [1]}
    weights.write(tmp_path / "newer.safetensors", arrays, {"format": 99, **about})
    weights.write(tmp_path / "cut.safetensors", arrays, {"format": 1, "peers": 1, **about})
    about["encoder"] = {"name": "vit", "width": 3}
    weights.write(tmp_path / "other.safetensors", arrays, {"format": 1, "peers": 1, **about})
    for name, message in {
        "absent": "path must be a workdir or a .safetensors file, got .*absent': no such file",
        "absent.safetensors": "path must be a workdir .* no such file",
        "empty": "path must hold student.safetensors, got .*empty': no run is in it",
        "begun": "path must hold student.safetensors, .* has not finished",
        "some.npz": r"path must be a workdir or a \.safetensors file",
        "broken.safetensors": "path .*broken.safetensors' cannot be read",
        "bare.safetensors": "path must hold a saved student, got weights alone",
        "torch.safetensors": "path must hold a saved student, got weights alone",
        "newer.safetensors": "path must hold a student of format 1, got 99 .* newer",
        "cut.safetensors": "path .*cut.safetensors' must hold this encoder, but has no entry",
        "other.safetensors": "encoder must be given: this version knows no encoder .*vit",
    }.items():
        with pytest.raises(UserError, match=f"^{message}") as caught:
            load(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_an_own_network_is_asked_for_and_must_fit(tmp_path):
    made(CUSTOM, Own).save(tmp_path / "own.safetensors")
    with pytest.raises(UserError, match=r"^encoder must be given: .* your own"):
        load(tmp_path / "own.safetensors")
    with pytest.raises(UserError, match=r"^path .* must hold this encoder, but has no entry"):
        load(tmp_path / "own.safetensors", encoder=ENCODERS["cnn"]())


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.npz", "path must end in .safetensors, got"), ("no/a.safetensors", ".* cannot be written")],
)
def test_paths_that_cannot_be_written_are_refused(name, message, tmp_path):
    with pytest.raises(UserError, match=f"^{message}"):
        made().save(tmp_path / name)


def test_loading_imports_nothing_that_only_training_needs(tmp_path):
    made().save(tmp_path / "student.safetensors")
    code = (
        "import sys, numpy as np\nfrom rmdnet_jax.app.student import load\n"
        f"print(load({str(tmp_path)!r}).predict(np.zeros((2, 8, 8, 1), np.uint8)).shape)\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'orbax', 'matplotlib', 'ml_collections'}\n"
        "print(sorted(heavy & sys.modules.keys()), 'rmdnet_jax.app.config' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["(2, 3)", "[] False"]


@pytest.mark.parametrize("given", [None, Own], ids=["cnn", "own"])
def test_a_run_leaves_both_peers(given, tmp_path):
    config = tiny(method="co_teaching", weight=0.0)
    if given is not None:
        put(config, "encoder", choice("custom", network="Own"))
    student = experiment.run(config, tmp_path, encoder=given).student
    again, images = load(tmp_path, encoder=given), pixels(6)
    assert len(again.variables.params) == 2
    np.testing.assert_array_equal(again.predict(images), student.predict(images))
    first = dataclasses.replace(again, variables=Variables(*(t[:1] for t in again.variables)))
    assert np.any(first.predict(images) != again.predict(images))
    np.testing.assert_array_equal(first.features(images), again.features(images))

"""`train` on arrays: any kind of them, the same numbers each time, and nothing left behind."""

import gc
import io
import json
import os
import signal
import threading
import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict
from sklearn.datasets import load_digits

import rmdnet_jax as rmd
from rmdnet_jax.training.metrics import Progress

DIGITS = load_digits()
X, Y = np.round(DIGITS.images[:256] * (255 / 16)).astype(np.uint8), DIGITS.target[:256]
TEST, TEST_Y = (
    np.round(DIGITS.images[256:300] * (255 / 16)).astype(np.uint8),
    DIGITS.target[256:300],
)
NAMES = np.array(["ant", "bat", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay"])
# One epoch of one stage, without a teacher.
FAST = {"controls": (), "weight": 0, "epochs": 1, "relation_guided.batch_size": 64}
WHOLE = {"weight": 1, "modeling": 1, "relation_modeling.batch_size": 64}  # with a teacher


def train(workdir, preset="digits:quick", *, overrides=None, images=X, labels=Y, **given):
    values = {**FAST, **(overrides or {})}
    return rmd.train(preset, workdir, images=images, labels=labels, overrides=values, **given)


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain"))


# --- what it takes


def torch_tensors():
    torch = pytest.importorskip("torch")
    return torch.tensor(X[..., None]), torch.tensor(Y)


KINDS = {
    "lists of integers and of floats": lambda: ((X / 255).tolist(), Y.tolist()),
    "one channel, and integers of any range": lambda: (X[..., None], 7 * Y - 30),
    "float64 and text": lambda: (X / 255, NAMES[Y]),
    "float32 and a list of text": lambda: (np.float32(X / 255), NAMES[Y].tolist()),
    "JAX arrays": lambda: (jnp.asarray(X), jnp.asarray(Y)),
    "a list of arrays, and whole floats": lambda: (list(X), Y.astype(float)),
    "PyTorch tensors": torch_tensors,
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_arrays_of_any_kind_train_the_same_network(make, plain, tmp_path):
    images, labels = make()
    run = train(tmp_path / "run", images=images, labels=labels)
    np.testing.assert_array_equal(run.predict(TEST), plain.predict(TEST))
    assert run.classes == tuple(sorted(set(np.asarray(labels).tolist())))
    assert [type(value) for value in run.classes] == [type(np.asarray(labels)[0].item())] * 10
    assert rmd.load(tmp_path / "run").classes == run.classes


def test_names_stand_for_the_sorted_labels(plain, tmp_path):
    run = train(tmp_path / "run", labels=-Y, names=reversed(NAMES.tolist()))
    assert run.classes == rmd.load(tmp_path / "run").classes == tuple(NAMES[::-1].tolist())
    more = train(tmp_path / "more", labels=Y, names=[*NAMES.tolist(), "kiwi"])
    assert more.predict(TEST).shape == (len(TEST), 11)
    assert more.classes[10] == "kiwi"


def test_colour_images_of_any_size(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (130, 9, 6, 3), np.uint8)
    labels = np.arange(130) % 2 == 0
    run = train(tmp_path / "run", images=images, labels=labels)
    assert run.classes == (False, True)
    assert run.predict(images[:3]).shape == run.predict(np.tile(images[:3], (1, 2, 1, 1))).shape
    assert rmd.load(tmp_path / "run").image_shape == (9, 6, 3)


def test_a_test_set_gives_accuracies(tmp_path):
    run = train(tmp_path / "run", labels=NAMES[Y], test_images=TEST, test_labels=NAMES[TEST_Y])
    found = run.summary["relation_guided"]["test_accuracy"]["last"]
    guess = np.array(run.classes)[run.predict(TEST).argmax(1)]
    assert found == pytest.approx(np.mean(guess == NAMES[TEST_Y]))
    assert f"test accuracy {100 * found:.2f} %, 10 classes" in repr(run)
    assert run.summary == json.loads((tmp_path / "run" / "summary.json").read_text())


def test_without_a_test_set_there_is_none(plain):
    assert plain.summary["relation_guided"]["test_accuracy"]["last"] is None
    assert "no test set" in repr(plain)


def test_without_arrays_the_presets_data_are_trained_on(tmp_path):
    values = {**FAST, "data.limit": 100}
    run = rmd.train("digits:quick", tmp_path / "run", overrides=values)
    assert run.classes == run.student.classes == tuple("0123456789")
    assert run.summary["relation_guided"]["test_accuracy"]["last"] >= 0


# --- what it gives


@pytest.mark.parametrize("more", [WHOLE, {"method": "co_teaching"}], ids=["teacher", "two peers"])
def test_the_record_and_its_files_say_the_same(more, tmp_path):
    run = train(tmp_path / "run", overrides=more)
    run.save(tmp_path / "copy.safetensors")
    probabilities, features = run.predict(TEST), run.features(TEST)
    assert probabilities.shape == (len(TEST), 10)
    assert features.shape == (len(TEST), 16)
    assert probabilities.dtype == features.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    for path in (tmp_path / "run", tmp_path / "copy.safetensors"):
        student = rmd.load(path)
        np.testing.assert_array_equal(student.predict(TEST), probabilities)
        np.testing.assert_array_equal(student.features(TEST), features)


def test_images_of_another_size_than_in_training(plain):
    large = np.kron(TEST, np.ones((1, 2, 2), np.uint8))
    assert plain.predict(large).shape == (len(TEST), 10)
    assert np.any(plain.predict(large) != plain.predict(TEST))


class Linen(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(self.width, (3, 3))(x))
        return nn.relu(x).mean((1, 2))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.conv(x)).mean((1, 2))


OWN = {
    "Linen": lambda: Linen(),
    "NNX class": lambda: Nnx,
    "NNX module": lambda: Nnx(nnx.Rngs(0)),
    "NNX function": lambda: lambda rngs: Nnx(rngs),
}


@pytest.mark.parametrize("make", OWN.values(), ids=OWN)
def test_an_own_network_is_trained_and_asked_for_again(make, tmp_path):
    run = train(tmp_path / "run", encoder=make(), overrides=WHOLE if make() is Nnx else {})
    assert run.features(TEST).shape == (len(TEST), 4)
    student = rmd.load(tmp_path / "run", encoder=make())
    np.testing.assert_array_equal(student.predict(TEST), run.predict(TEST))
    with pytest.raises(rmd.UserError, match=r"^encoder must be given"):
        rmd.load(tmp_path / "run")
    network = json.loads((tmp_path / "run" / "config.json").read_text())["encoder"]["network"]
    assert network.split(".")[0] == __name__, "it tells which of the user's networks it was"


def test_an_encoder_by_its_name_with_fields_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setitem(rmd.ENCODERS, "tiny", lambda *, width=3: Linen(width))
    run = train(tmp_path / "run", encoder="tiny", overrides={"encoder.width": 5})
    assert run.features(TEST).shape == (len(TEST), 5)
    student = rmd.load(tmp_path / "run")
    assert student.description == {"name": "tiny", "width": 5}
    np.testing.assert_array_equal(student.predict(TEST), run.predict(TEST))


# --- settings


def test_overrides_have_dotted_or_short_names_and_values_of_numpy(tmp_path):
    values = {
        "method": "elr",
        "noise.rate": np.float32(0.25),
        "relation_guided.epochs": np.int64(2),
    }
    train(tmp_path / "run", overrides={**values, "epochs": 2})
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["relation_guided"]["method"]["name"] == "elr"
    assert config["noise"]["rate"] == config["given"]["overrides"]["noise.rate"] == 0.25
    assert config["relation_guided"]["epochs"] == 2
    assert config["given"]["config"] == "digits:quick"


def test_a_config_is_taken_and_left_as_it_is(plain, tmp_path):
    config = rmd.get_config("digits:quick")
    before = config.to_dict()
    run = train(tmp_path / "run", config)
    assert config.to_dict() == before
    np.testing.assert_array_equal(run.predict(TEST), plain.predict(TEST))


# --- nothing is left behind


def test_runs_do_not_differ_and_leave_nothing_behind(tmp_path):
    names = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(s) for s in names], dict(jax.config.values), dict(os.environ)
    outputs, alive, images = [], [], []
    for number in range(3):
        mine = X.copy()
        run = train(tmp_path / str(number), images=mine, overrides=WHOLE)
        images.append(weakref.ref(mine))
        del mine
        gc.collect()
        assert images[-1]() is None, "the record keeps no data set"
        outputs.append((run.predict(TEST), run.features(TEST)))
        del run
        gc.collect()
        alive.append([sum(x.nbytes for x in jax.live_arrays()), len(jax.live_arrays())])
    assert alive[2][0] - alive[1][0] < X.nbytes / 4
    assert alive[2][1] - alive[1][1] < 4
    for found in outputs[1:]:
        np.testing.assert_array_equal(found[0], outputs[0][0])
        np.testing.assert_array_equal(found[1], outputs[0][1])
    logs = {(tmp_path / str(number) / "metrics.jsonl").read_bytes() for number in range(3)}
    assert len(logs) == 1
    assert before == ([signal.getsignal(s) for s in names], jax.config.values, os.environ)


def test_it_runs_in_another_thread(plain, tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(train(tmp_path / "run").predict(TEST)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], plain.predict(TEST))


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train(tmp_path / "run")
    kept = [path for path in content(tmp_path / "run") if path.name != "summary.json"]
    times = {path: path.stat().st_mtime_ns for path in kept if "checkpoints" in path.parts}
    before = content(tmp_path / "run")
    again = train(tmp_path / "run")
    np.testing.assert_array_equal(again.predict(TEST), first.predict(TEST))
    after = content(tmp_path / "run")
    changed = {path.name for path in after if before.get(path) != after[path]}
    # It says how long the session took; and metadata of safetensors have no order.
    assert changed <= {"summary.json", "student.safetensors"}
    assert times == {path: path.stat().st_mtime_ns for path in times}


ORDER = np.random.default_rng(0).permutation(len(X))
OTHERS = {
    "pixels": {"images": 255 - X},
    "order of the images": {"images": X[ORDER]},
    "labels": {"labels": Y[ORDER]},
    "test set": {"test_images": TEST, "test_labels": TEST_Y},
    "settings": {"overrides": {"noise.rate": 0.1}},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    train(place := tmp_path_factory.mktemp("finished"))
    return place


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_workdir_of_other_arrays_is_refused_and_left_alone(other, finished):
    before = content(finished)
    with pytest.raises(rmd.UserError, match=r"workdir .* differs") as caught:
        train(finished, **other)
    assert "\n" not in str(caught.value)
    assert content(finished) == before


# --- wrong arguments

WRONG = {
    "images without labels": ({"labels": None}, "labels must be given with images"),
    "labels without images": ({"images": None}, "labels must come with images"),
    "names without images": (
        {"images": None, "labels": None, "names": NAMES}, "names must come with images"),
    "lengths": ({"labels": Y[:-1]}, "labels must be one for each of 256 images, got 255"),
    "rank of images": ({"images": X[0]}, r"images must be uint8 \[n, h, w\] .*got uint8 \[8, 8\]"),
    "channels first": ({"images": X[:, None].repeat(3, 1)}, "images must have their channels last"),
    "rank of labels": ({"labels": np.eye(10)[Y]}, r"labels must be .*\[n\].* \(256, 10\)"),
    "floats out of range": ({"images": X / 10}, r"images must be .* got float64 from 0 to 25.5"),
    "NaN": ({"images": np.full(X.shape, np.nan)}, "images must be .*they hold NaN"),
    "missing label": ({"labels": [None, *Y[1:].tolist()]}, "labels must not hold missing values"),
    "one class": ({"labels": 0 * Y}, r"labels must be of two or more classes, got \[0\]"),
    "number of names": ({"names": ["a", "b"]}, "names must be one for each of 10 classes, got 2"),
    "names as text": ({"names": "abcdefghij"}, "names must be a list"),
    "names alike": ({"names": ["a"] * 10}, "names must differ from each other, got 'a' twice"),
    "preset": ({"preset": "digitz"}, "config must be .*got 'digitz': did you mean digits"),
    "no config": ({"preset": {}}, "preset_or_config must be .* got dict"),
    "another ConfigDict": ({"preset": ConfigDict({"a": 1})}, "preset_or_config must be like"),
    "override": ({"overrides": {"noise.rat": 0.1}}, "unknown field 'noise.rat': .*noise.rate"),
    "value": ({"overrides": {"epochs": "a"}}, "relation_guided.epochs must be of type int, got"),
    "test images alone": ({"test_images": TEST}, "test_labels must be given, too"),
    "class of a test label": (
        {"test_images": TEST, "test_labels": 77 + 0 * TEST_Y},
        "test_labels must be among the 10 classes, got 77"),
    "size of test images": (
        {"test_images": TEST[:, 1:], "test_labels": TEST_Y},
        r"test_images must have the shape \[8, 8, 1\] of the training images"),
    "encoder's name": ({"encoder": "resnt18"}, "encoder.* got 'resnt18': did you mean resnet18"),
    "no encoder": ({"encoder": 3}, "encoder must be a Flax module.* got int"),
    "encoder of other images": ({"encoder": nn.Conv(4, (3, 3))}, r"encoder must give features"),
    "batch": (
        {"images": X[:50], "labels": Y[:50]},
        r"relation_guided.batch_size must be in \[2, 50\] \(the training examples\), got 64"),
    "batch of relation modeling": (
        {"overrides": {**WHOLE, "relation_modeling.batch_size": 512}},
        r"relation_modeling.batch_size must be in \[2, 256\] \(the training examples\), got 512"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_argument_is_told_in_a_line_and_nothing_is_written(given, message, tmp_path):
    with pytest.raises(rmd.UserError, match=f"^{message}") as caught:
        train(tmp_path / "run", **given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_overrides_that_are_no_mapping_are_told(tmp_path):
    with pytest.raises(rmd.UserError, match=r"^overrides must be like .* got "):
        rmd.train("digits:quick", tmp_path / "run", overrides=["epochs"])


def test_a_workdir_must_be_a_directory(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(rmd.UserError, match=r"^workdir must be a directory, got the file"):
        train(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(rmd.UserError, match=r"^workdir must be a path, got None"):
        train(None)


# --- progress


class Screen(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


class Kernel(Screen):
    """As standard error is in a Jupyter kernel."""

    __module__ = "ipykernel.iostream"


@pytest.mark.parametrize(
    ("screen", "bar"),
    [(Screen(True), True), (Kernel(False), True), (Screen(False), False)],
    ids=["terminal", "notebook", "file"],
)
def test_progress_is_one_bar_where_it_can_be_redrawn_and_lines_elsewhere(screen, bar, monkeypatch):
    monkeypatch.setattr("sys.stderr", screen)
    progress = Progress("stage", 20, 0, 10, 64)
    assert "stage: compiling" in screen.getvalue(), "before anything takes its time"
    for done in (1, 10, 20):
        progress.due(done)
        progress.show(done, 0.5)
    progress.close()
    text = screen.getvalue()
    assert text.count("\n") == (1 if bar else 4)
    assert ("\r" in text) is bar
    assert "epoch 2.0/2  loss 0.5000" in text.splitlines()[-1]


def test_a_rate_is_that_of_steps_without_what_compiles(monkeypatch):
    """The first step and the first evaluation do; the second evaluation counts."""
    clock, screen = [0.0], Screen(False)
    monkeypatch.setattr("rmdnet_jax.training.metrics.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("sys.stderr", screen)
    progress = Progress("stage", 40, 0, 10, 64, interval=5)

    def at(seconds, done, evaluation=0.0):
        clock[0] = seconds + evaluation
        if evaluation:
            progress.leave_out(evaluation)
        if progress.due(done):
            progress.show(done, 0.5)

    at(60, 1)  # compiled for a minute
    at(69, 10, 31)  # 9 steps in 9 s, then the first evaluation
    at(110, 20, 10)  # 10 steps in 10 s, then another one: 19 steps in 29 s
    first, second, third = screen.getvalue().splitlines()[1:]
    assert "images/s" not in first
    assert "left" not in first
    assert "  64 images/s  30 s left" in second
    assert f"  {64 * 19 / 29:.0f} images/s" in third


@pytest.mark.parametrize("start", [0, 7, 20])
def test_progress_begins_with_what_is_to_do(start, monkeypatch):
    monkeypatch.setattr("sys.stderr", screen := Screen(False))
    Progress("stage", 20, start, 10, 64).close()
    said = {0: "stage: compiling\n", 7: "stage: compiling, continues at step 7 of 20\n", 20: ""}
    assert screen.getvalue() == said[start]


@pytest.mark.parametrize(
    ("given", "overrides"),
    [
        ({"encoder": "cnn"}, {"encoder": "resnet18"}),
        ({"images": "yes"}, {"data": "cifar10"}),
        ({"images": "yes"}, {"data.dir": "elsewhere"}),
    ],
)
def test_what_an_argument_sets_no_override_may_set(given, overrides, tmp_path):
    """Neither wins in silence."""
    if "images" in given:
        given = {"images": np.zeros((40, 8, 8), np.uint8), "labels": np.arange(40) % 4}
    (name,) = overrides
    with pytest.raises(rmd.UserError, match=f"overrides must not set {name!r} beside"):
        rmd.train("digits:quick", tmp_path / "run", **given, overrides=overrides)
    assert not (tmp_path / "run").exists()


def test_a_preset_on_arrays_stays_that_experiment(tmp_path):
    """CIFAR-10's asymmetric noise keeps CIFAR-10's map, ELR the settings of the preset's data."""
    images = np.random.default_rng(0).integers(0, 256, (256, 8, 8, 3)).astype(np.uint8)
    values = {"method": "elr", "weight": 0, "epochs": 1, "encoder.width": 2, "controls": ()}
    values |= {"relation_guided.batch_size": 64, "encoder": "resnet18"}
    run = rmd.train(
        "cifar10_asym", tmp_path, images=images, labels=np.arange(256) % 10, overrides=values
    )
    assert run.summary["noise"]["mapping"] == "cifar10"
    assert run.summary["noise"]["transition"][9][1] > 0.1, "trucks pass for automobiles"
    assert run.summary["noise"]["transition"][1][1] == 1.0, "automobiles stay"

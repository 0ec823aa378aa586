"""Teachers: fed as they were trained, refused where they cannot teach, and said so."""

import json

import jax
import numpy as np
import pytest
from conftest import tiny
from PIL import Image
from safetensors.numpy import save_file

from rmdnet_jax.app import checked, experiment, learning, setup, sight
from rmdnet_jax.app import teacher as teachers
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.app.sight import Sight
from rmdnet_jax.data import resident, sources
from rmdnet_jax.errors import UserError
from rmdnet_jax.networks import encoders, weights

MINE = encoders.cnn(widths=(4, 8))  # that of `tiny`
RNG = np.random.default_rng(0)


def arrays(others=None, side=8, count=64):
    """Data whose first 16 images are always the same."""
    shared = np.random.default_rng(1).integers(0, 256, (16, side, side, 1), dtype=np.uint8)
    rest = np.random.default_rng(2).integers(0, 256, (count - 16, side, side, 1), dtype=np.uint8)
    rest = rest if others is None else np.full_like(rest, others)
    return sources.arrays(np.concatenate([shared, rest]), np.arange(count) % 4)


def drawn(seed=0):
    return jax.tree.map(np.asarray, MINE.init(jax.random.key(seed), np.zeros((1, 8, 8, 1))))


def features(tmp_path, source, file):
    """What a teacher says of a data set."""
    return prepared(tmp_path, source, file).features


def prepared(tmp_path, source, file, **values):
    values = {"batch_size": 32, "relation_guided.batch_size": 32, **values}
    values.pop("batch_size")
    config = resolve(tiny(teacher=str(file), data="arrays", **values))
    return teachers.prepared(setup.setup(config, tmp_path / "run", source))


def saved(path, about=None, variables=None):
    weights.write(
        path, weights.state_dict(drawn() if variables is None else variables), about or {}
    )
    return path


def slow(source, mean, std):
    """The features of a data set, normalised by what is told."""
    images = (source.images / 255 - np.array(mean)) / np.array(std)
    return MINE.apply(drawn(), images.astype(np.float32), False)[0]


def test_a_file_brings_its_own_normalisation(tmp_path):
    file = saved(tmp_path / "t.safetensors", {"mean": [0.45], "std": [0.22]})
    dark, bright = (features(tmp_path, arrays(others), file) for others in (20, 230))
    np.testing.assert_allclose(dark[:16], bright[:16], atol=1e-5)
    np.testing.assert_allclose(dark, slow(arrays(20), [0.45], [0.22]), atol=1e-5)


def test_weights_alone_are_fed_as_the_run_is(tmp_path):
    save_file(weights.state_dict(drawn()), tmp_path / "t.safetensors")
    statistics = resident.channel_statistics(arrays(20).images)
    found = features(tmp_path, arrays(20), tmp_path / "t.safetensors")
    np.testing.assert_allclose(found, slow(arrays(20), *statistics), atol=1e-5)


@pytest.mark.parametrize("left", ["teacher.json", "data.json"])
def test_a_run_leaves_how_its_teacher_was_fed(left, tmp_path):
    values = {"weight": 1, "relation_modeling.batch_size": 32, "relation_guided.batch_size": 32}
    config = tiny(data="arrays", epochs=1, modeling=1, **values)
    experiment.run(config, tmp_path / "first", source=arrays())
    if left == "data.json":  # a run of an older version
        (tmp_path / "first" / sight.FILE).unlink()
    own = resident.channel_statistics(arrays().images)
    variables = prepared(tmp_path, arrays(20), tmp_path / "first").variables
    found = features(tmp_path, arrays(20), tmp_path / "first")
    images = ((arrays(20).images / 255 - own[0]) / own[1]).astype(np.float32)
    np.testing.assert_allclose(found, MINE.apply(variables, images, False)[0], atol=1e-5)


def test_a_teacher_sees_images_in_its_own_size(tmp_path):
    """Halved by a triangle filter, as Pillow does it; cut to the middle where they are wide."""
    about = {"mean": [0.5], "std": [0.2], "image_shape": [8, 8, 1]}
    file, large = saved(tmp_path / "t.safetensors", about), arrays(side=16)
    small = [
        np.asarray(Image.fromarray(x[..., 0]).resize((8, 8), Image.Resampling.BILINEAR))
        for x in large.images
    ]
    expected = slow(large._replace(images=np.stack(small)[..., None]), [0.5], [0.2])
    found = features(tmp_path, large, file)
    np.testing.assert_allclose(found, expected, atol=0.02)  # Pillow rounds to 8 bits
    wide = np.pad(large.images, ((0, 0), (0, 0), (4, 4), (0, 0)))
    np.testing.assert_array_equal(resident.fitted(wide, 16, 16), large.images)


def test_a_network_is_the_same_one_where_nothing_differs():
    own = Sight(np.float32([0.5]), np.float32([0.2]), (8, 8))
    statistics = np.float32([0.5]), np.float32([0.2])
    assert sight.fed(MINE, own, statistics, (5, 8, 8, 1)) is MINE
    assert sight.fed(MINE, None, statistics, (5, 8, 8, 1)) is MINE
    assert sight.fed(MINE, own, statistics, (5, 9, 8, 1)) is not MINE


@pytest.mark.parametrize(
    "about",
    [
        {"mean": [0.5], "std": [0.0]},
        {"mean": [0.5, 0.5], "std": [0.2, 0.2]},
        {"mean": [float("nan")], "std": [0.2]},
        {"mean": ["x"], "std": [0.2]},
        {"mean": [0.5]},
        {"mean": [0.5], "std": [0.2], "image_shape": 8},
        {"mean": [0.5], "std": [0.2], "image_shape": [0, 8, 1]},
    ],
)
def test_a_normalisation_that_cannot_be_is_refused(about, tmp_path):
    file = saved(tmp_path / "t.safetensors", about)
    with pytest.raises(UserError, match=r"^teacher .*t\.safetensors': its normalisation cannot be"):
        features(tmp_path, arrays(), file)


@pytest.mark.parametrize("text", ["[]", "{", '"x"', "null"])
def test_a_damaged_statement_of_a_run_is_refused(text, tmp_path):
    (tmp_path / sight.FILE).write_text(text)
    with pytest.raises(UserError, match=r"^teacher"):
        sight.read(tmp_path, 1)


# --- what cannot teach


def changed(how):
    """Weights of which all, or one, are of a kind that cannot teach."""
    state = weights.state_dict(drawn())
    if how == "one NaN":
        state["conv1.weight"][0, 0, 0, 0] = np.nan
    elif how in ("NaN", "infinite", "zero", "huge"):
        value = {"NaN": np.nan, "infinite": np.inf, "zero": 0.0, "huge": 1e30}[how]
        state = {name: np.full_like(array, value) for name, array in state.items()}
    elif how == "too large":
        state = {name: np.full(array.shape, 1e300) for name, array in state.items()}
    else:
        state = {name: array.astype(how) for name, array in state.items()}
    return state


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("NaN", "is not finite"),
        ("one NaN", "'conv1.weight' is not finite"),
        ("infinite", "is not finite"),
        ("too large", "is not finite"),
        ("int32", "is of int32, not of floats"),
        ("bool", "is of bool, not of floats"),
        ("zero", "cannot teach: its features of 64 images are all zero"),
        ("huge", "not finite|are all"),
    ],
)
def test_a_file_that_cannot_teach_is_refused(how, message, tmp_path):
    save_file(changed(how), tmp_path / "t.safetensors")
    with pytest.raises(UserError, match=message):
        features(tmp_path, arrays(), tmp_path / "t.safetensors")


def test_half_precision_can_teach(tmp_path):
    save_file(changed("float16"), tmp_path / "t.safetensors")
    assert np.isfinite(features(tmp_path, arrays(), tmp_path / "t.safetensors")).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((64, 3)), "all zero"),
        (np.ones((64, 3)), "all alike"),
        (np.arange(1, 65)[:, None] * np.ones(3), "all alike"),  # one direction: cosines are 1
        (np.full((64, 3), 1e300), "finite"),
    ],
)
def test_features_that_cannot_teach_are_refused(given, message, tmp_path):
    np.save(tmp_path / "t.npy", given)
    values = {"relation_guided.teacher_features": "stored", "relation_guided.node.weight": 0}
    with pytest.raises(UserError, match=rf"^teacher .*{message}"):
        prepared(tmp_path, arrays(), tmp_path / "t.npy", **values)


def test_images_all_alike_are_refused_before_anything_is_written(tmp_path):
    source = sources.arrays(np.full((64, 8, 8), 7, np.uint8), np.arange(64) % 4)
    values = {"relation_modeling.batch_size": 32, "relation_guided.batch_size": 32}
    with pytest.raises(UserError, match=r"^data must hold images that differ .* 64 times"):
        experiment.run(tiny(data="arrays", **values), tmp_path / "run", source=source)
    assert not (tmp_path / "run").exists()


# --- classes


def test_classes_that_cannot_be_learnt_or_measured_are_refused():
    images, every = np.zeros((6, 2, 2), np.uint8), np.arange(6)
    one = sources.arrays(images, ["cat"] * 6)
    with pytest.raises(UserError, match=r"^data must hold .* two classes or more, got 'cat' alone"):
        checked.classes(one, every, one.labels)
    two = sources.arrays(images, list("ababab"))
    with pytest.raises(UserError, match=r"two classes or more after noise, got 'b' alone"):
        checked.classes(two, every, np.ones(6, int))
    with pytest.raises(UserError, match=r"two classes or more, got 'a' alone"):
        checked.classes(two, every[::2], two.labels)  # the others are held out
    names = list("abc")
    tested = sources.arrays(images, [0, 2] * 3, images[:2], [0, 1], names)
    with pytest.raises(UserError, match=r"of each class that is tested, got none of 'b'"):
        checked.classes(tested, every, tested.labels)
    checked.classes(two, every, two.labels)


def test_what_a_person_should_know_is_said():
    source = sources.arrays(np.zeros((6, 2, 2), np.uint8), [0, 2] * 3, names=list("abc"))
    config = resolve(tiny(encoder="cnn", **{"encoder.dtype": "bfloat16"}))
    text = "\n".join(checked.notes(config, source, np.arange(6), [], None))
    assert "classes 0 a, 1 b, 2 c" in text
    assert "no training image shows 1 b" in text
    assert "computed in float32 on a CPU" in text
    quiet = sources.arrays(np.zeros((6, 2, 2), np.uint8), list("ababab"))
    assert checked.notes(resolve(tiny()), quiet, np.arange(6), [], None) == ["classes 0 a, 1 b"]
    other = checked.notes(resolve(tiny()), quiet, np.arange(6), [], 1 - quiet.labels)
    assert "no more than chance" in other[1]


def test_the_statement_is_json(tmp_path):
    sight.write(tmp_path, (np.float32([0.5]), np.float32([0.25])), (9, 8, 7, 1))
    told = json.loads((tmp_path / sight.FILE).read_text())
    assert told == {"mean": [0.5], "std": [0.25], "image_shape": [8, 7, 1]}
    assert sight.read(tmp_path, 1).size == (8, 7)


def test_an_online_teacher_is_fed_as_a_stored_one(tmp_path):
    """Without augmentation both say the same of each batch, so both train the same student."""
    file = saved(
        tmp_path / "t.safetensors", {"mean": [0.1], "std": [0.7], "image_shape": [6, 6, 1]}
    )
    values = {"data": "arrays", "epochs": 1, "weight": 3, "relation_guided.batch_size": 32}
    values |= {"relation_guided.augmentation.name": "none", "teacher": str(file)}
    terms = []
    for kind in ("online", "stored"):
        place = tmp_path / kind
        config = tiny(**values, **{"relation_guided.teacher_features": kind})
        experiment.run(config, place, source=arrays(20))
        record = json.loads((place / "metrics.jsonl").read_text().splitlines()[-1])
        terms.append([record["edge"], record["node"]])
    # An edge term is a difference of logarithms: its rounding does not shrink with it.
    np.testing.assert_allclose(*terms, rtol=1e-4, atol=3e-6)


def test_relation_modeling_alone_needs_no_labels_and_leaves_a_teacher(tmp_path):
    source = arrays()._replace(labels=np.zeros(64, np.int32), names=("unlabelled",))
    values = {"data": "arrays", "relation_modeling.batch_size": 32}
    config = tiny(**values, epochs=0, noise="none", modeling=1)
    done = experiment.run(config, tmp_path / "run", source=source)
    assert done.student is None
    assert np.isfinite(done.summary["relation_modeling"]["loss"])
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == done.summary
    assert np.isfinite(features(tmp_path / "next", arrays(), tmp_path / "run")).all()


def test_labels_have_to_be_there_where_a_teacher_alone_is_to_audit_them(tmp_path):
    source = arrays()._replace(labels=np.zeros(64, np.int32), names=("unlabelled",))
    config = tiny(data="arrays", epochs=0, noise="none", audit=True)
    with pytest.raises(UserError, match="hold training images of two classes or more"):
        experiment.run(config, tmp_path / "run", source=source)
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_sees_otherwise_is_another_teacher(tmp_path, monkeypatch):
    def trains(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(learning, "train", trains)
    values = {"data": "arrays", "weight": 3, "relation_guided.batch_size": 32}
    config = tiny(**values, teacher=str(tmp_path / "t.safetensors"))

    def begin(mean):
        saved(tmp_path / "t.safetensors", {"mean": [mean], "std": [0.7], "image_shape": [6, 6, 1]})
        with pytest.raises(KeyboardInterrupt):
            experiment.run(config, tmp_path / "run", source=arrays(20))

    begin(0.1)
    with pytest.raises(UserError, match="teacher_sees is"):
        begin(0.2)
    begin(0.1)

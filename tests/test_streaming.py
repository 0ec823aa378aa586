"""Data that need not fit in memory end in the same numbers, bit for bit."""

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import ROOT, assert_same, tiny
from jax.sharding import AxisType
from PIL import Image
from test_multihost import MAIN, command, finish, started, until_it_trains  # noqa: F401
from test_resume import Killed, final_states

from rmdnet_jax import sharding
from rmdnet_jax.app import experiment, fits, setup
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.data import encoded, resident, sources, streaming
from rmdnet_jax.data.encoded import Encoded
from rmdnet_jax.data.resident import Examples
from rmdnet_jax.data.streaming import Ahead
from rmdnet_jax.errors import UserError
from rmdnet_jax.files import digest
from rmdnet_jax.training.predict import predictor

STREAMING = {"data.pipeline": "streaming"}


def always(size):
    return True


def one_device():
    return jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])


MESHES = pytest.mark.parametrize("mesh", [one_device, sharding.mesh], ids=["1 device", "8 devices"])


def photos(root, counts=(6, 5), splits=("train",), seed=0, suffix="png"):
    """A folder of images of any size; example i of class c holds noise that no other does."""
    rng = np.random.default_rng(seed)
    for split, (label, count) in itertools.product(splits, enumerate(counts)):
        place = pathlib.Path(root) / split / "abcdef"[label]
        place.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            height, width = rng.integers(9, 40, 2)
            pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"{i}.{suffix}")
    return str(root)


def load(root, stream=always, **options):
    return sources.load("folder", dir=str(root), image_size=8, stream=stream, **options)


def ended(workdir):
    """Its metrics, and the last state of every stage."""
    return (workdir / "metrics.jsonl").read_text(), final_states(workdir)


def assert_same_end(one, other):
    assert one[0] == other[0]
    assert sorted(one[1]) == sorted(other[1])
    assert one[1]
    for name in one[1]:
        assert_same(one[1][name], other[1][name])


# --- images that are decoded when they are asked for


@pytest.mark.parametrize(
    "index",
    [0, -1, slice(2, 7), slice(None, 0), [3, 1, 3], np.array([[0, 2], [5, 0]]), slice(None)],
    ids=str,
)
def test_encoded_images_are_read_as_an_array_is(index, tmp_path):
    whole = load(photos(tmp_path / "x"), stream=lambda size: False)
    found = load(tmp_path / "x")
    assert isinstance(found.images, Encoded)
    assert isinstance(whole.images, np.ndarray)
    np.testing.assert_array_equal(found.images[index], whole.images[index])
    assert (len(found.images), found.images.shape) == (11, whole.images.shape)
    assert found.images.nbytes == whole.images.nbytes
    np.testing.assert_array_equal(np.asarray(found.images), whole.images)
    assert found.files == whole.files
    np.testing.assert_array_equal(found.labels, whole.labels)


def test_a_limit_takes_the_same_examples_and_decodes_what_fits(tmp_path):
    root = photos(tmp_path / "x")
    whole = load(root, stream=lambda size: False, limit=5, seed=3)
    for stream in (always, lambda size: size > 8 * 8 * 3 * 6):
        found = load(root, stream, limit=5, seed=3)
        assert isinstance(found.images, Encoded) == (stream is always)
        np.testing.assert_array_equal(found.images[:], whole.images)
        np.testing.assert_array_equal(found.rows, whole.rows)
        assert found.files == whole.files


def test_channels_are_measured_on_the_same_images(tmp_path, monkeypatch):
    whole = load(photos(tmp_path / "x"), stream=lambda size: False)
    found = load(tmp_path / "x")
    for looked, rows in ((4, [0, 2, 5, 8]), (99, range(11))):  # i * 11 // 4
        monkeypatch.setattr(resident, "LOOKED_AT", looked)
        values = whole.images[[*rows]] / 255
        for images in (whole.images, found.images):
            mean, std = resident.channel_statistics(images)
            np.testing.assert_allclose(mean, values.mean((0, 1, 2)), rtol=1e-5)
            np.testing.assert_allclose(std, values.std((0, 1, 2)), rtol=1e-5)


def test_alike_looks_no_further_than_it_must(tmp_path):
    assert not resident.alike(load(photos(tmp_path / "x")).images)
    same = Encoded(np.ones((9, 2, 2, 1), np.uint8), (2, 2, 1), count=9)
    assert resident.alike(same)


@MESHES
def test_predictions_are_the_same(mesh, tmp_path):
    made = mesh()
    whole = load(photos(tmp_path / "x", (40, 30)), stream=lambda size: False)
    found = load(tmp_path / "x")
    predict = predictor(
        lambda w, image: (image.reshape(len(image), -1) @ w, image.mean((1, 2))),
        made,
        16,
        *resident.channel_statistics(whole.images),
    )
    weights = np.random.default_rng(0).normal(size=(192, 5)).astype(np.float32)
    for rows in (None, np.array([5, 3, 60, 3]), np.arange(69, 0, -1)):
        assert_same(
            predict(weights, whole.images, rows=rows), predict(weights, found.images, rows=rows)
        )


def test_files_are_told_apart_by_name_size_and_content(tmp_path, monkeypatch):
    root = tmp_path / "x"
    first = load(photos(root)).images.digest()
    assert load(root).images.digest() == first
    path = root / "train" / "a" / "3.png"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert load(root).images.digest() != first
    monkeypatch.setattr(encoded, "READ", 1)  # of the content, only the first's is read
    sampled = load(root).images.digest()
    path.write_bytes(content)
    assert load(root).images.digest() == sampled
    path.write_bytes(content + b"0")
    assert load(root).images.digest() != sampled
    path.write_bytes(content)
    path.rename(path.with_name("10.png"))
    assert load(root).images.digest() != sampled


def test_encoded_pixels_have_the_hash_of_an_array():
    images = np.random.default_rng(0).integers(0, 256, (70, 5, 4, 3), np.uint8)
    assert digest(Encoded(images, (5, 4, 3), count=70)) == digest(images)


# --- batches


def columns(count):
    index = np.arange(count, dtype=np.int32)
    return index * 3 % 7, index, index % 5


def pipelines(mesh, images, epochs=3, batch_size=16):
    """Batches of the same images in memory, and streamed."""
    made, rows, key = mesh(), np.arange(1, len(images), dtype=np.int32), jax.random.key(4)
    given = columns(len(images))
    near = sharding.replicate(made, Examples(resident.flat(np.asarray(images)), *given))
    one = resident.resident(near, rows, batch_size, key, made)
    two = streaming.streaming(
        near._replace(image=None), images, rows, batch_size, key, made, epochs
    )
    return one, two


@MESHES
def test_batches_are_those_of_images_in_memory_in_any_order(mesh, tmp_path):
    images = load(photos(tmp_path / "x", (40, 30))).images
    one, two = pipelines(mesh, images)
    assert (one.steps_per_epoch, one.batch_size) == (two.steps_per_epoch, two.batch_size)
    expected = [one.batch(step) for step in range(3 * one.steps_per_epoch)]
    shuffled = np.random.default_rng(0).permutation(len(expected))
    for step in [*range(len(expected)), *shuffled, 3, 3, 3, 4]:
        found = two.batch(int(step))
        assert_same(found, expected[step])
        assert found.image.sharding.is_equivalent_to(expected[step].image.sharding, 4)


def test_a_batch_size_that_cannot_be_is_refused_alike():
    images = Encoded(np.zeros((20, 2, 2, 1), np.uint8), (2, 2, 1), count=20)
    for size in (1, 20, 12):
        messages = []
        for maker in (resident.resident, streaming.streaming):
            more = {"images": images, "epochs": 1} if maker is streaming.streaming else {}
            with pytest.raises(UserError) as caught:
                maker(
                    examples=Examples(None, *columns(20)), rows=np.arange(19), batch_size=size,
                    key=jax.random.key(0), mesh=sharding.mesh(), **more,
                )  # fmt: skip
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
        assert messages[0].startswith("batch_size must be")


def test_what_is_ahead_is_made_once_in_order_and_no_further_than_the_end():
    made = []

    def make(number):
        made.append(number)
        return number * number

    ahead = Ahead(make, end=7, most=3)
    assert [ahead(i) for i in (0, 0, 1, 2, 2, 3, 4, 5, 6, 6)] == [0, 0, 1, 4, 4, 9, 16, 25, 36, 36]
    assert sorted(made) == [*range(7)]
    assert ahead(2) == 4  # back again


def test_no_more_waits_than_there_is_room_for():
    made = []
    ahead = Ahead(lambda i: made.append(i), end=100, most=5)
    ahead(10)
    deadline = time.time() + 10
    while len(made) < 5 and time.time() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert sorted(made) == [10, 11, 12, 13, 14]


def test_an_error_comes_with_its_own_number():
    def make(number):
        if number == 2:
            raise UserError("two")
        return number

    ahead = Ahead(make, end=9, most=9)
    assert [ahead(0), ahead(1)] == [0, 1]
    with pytest.raises(UserError, match="two"):
        ahead(2)
    assert ahead(3) == 3


# --- whole runs


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory):
    """The end of a run whose images are in memory, by mesh."""
    found = {}

    def run(mesh):
        if mesh not in found:
            place = tmp_path_factory.mktemp("resident")
            experiment.run(tiny(controls=("base",)), place)
            found[mesh] = ended(place), json.loads((place / "data.json").read_text())
        return found[mesh]

    return run


@MESHES
def test_a_streamed_run_ends_as_one_in_memory(mesh, in_memory, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sharding, "mesh", mesh)
    end, data = in_memory(mesh)
    experiment.run(tiny(controls=("base",), **STREAMING), tmp_path)
    assert_same_end(ended(tmp_path), end)
    assert json.loads((tmp_path / "data.json").read_text()) == data
    assert "images are streamed" in capsys.readouterr().out


@pytest.mark.parametrize("at", [1, 6, 11])
def test_a_streamed_run_that_breaks_off_ends_the_same(at, in_memory, tmp_path, monkeypatch):
    count, original = itertools.count(), streaming.streaming

    def broken(*args):
        made = original(*args)

        def batch(step):
            if next(count) >= at:
                raise Killed
            return made.batch(step)

        return made._replace(batch=batch)

    config = tiny(controls=("base",), **STREAMING)
    with monkeypatch.context() as patch:
        patch.setattr(streaming, "streaming", broken)
        with pytest.raises(Killed):
            experiment.run(config, tmp_path)
    experiment.run(tiny(controls=("base",)), tmp_path)  # in memory: the numbers are the same
    assert_same_end(ended(tmp_path), in_memory(sharding.mesh)[0])


def test_many_steps_a_call_are_streamed_too(tmp_path):
    for pipeline in ("resident", "streaming"):
        config = tiny(steps_per_call=3, **{"data.pipeline": pipeline})
        experiment.run(config, tmp_path / pipeline)
    assert_same_end(ended(tmp_path / "streaming"), ended(tmp_path / "resident"))


def test_two_processes_decode_their_own_shares(started, tmp_path):  # noqa: F811
    for pipeline in ("resident", "streaming"):
        run = command(tmp_path / pipeline, f"data.pipeline={pipeline}")
        clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        local = ["bash", "launch/local.sh", "2", "1", *MAIN, *run]
        statuses, said = finish([started(*local, env=clean)])
        assert statuses == [0], said
    for file in ("metrics.jsonl", "student.safetensors", "data.json"):
        assert len({(tmp_path / x / file).read_bytes() for x in ("resident", "streaming")}) == 1


def test_a_process_reads_the_rows_of_its_own_devices_alone():
    asked = []
    images = Encoded(np.arange(64, dtype=np.uint8).reshape(64, 1, 1, 1), (1, 1, 1), count=64)

    def read(rows):
        asked.append(rows)
        return images.read(rows)

    rows = np.arange(63, 47, -1)
    found = sharding.read(sharding.mesh(), rows, read)
    np.testing.assert_array_equal(np.asarray(found).ravel(), rows)
    assert [len(x) for x in asked] == [16]
    assert [shard.data.shape for shard in found.addressable_shards] == [(2, 1, 1, 1)] * 8


@pytest.mark.parametrize("noise", ["instance", "symmetric"])
def test_noise_is_the_same(noise, monkeypatch, tmp_path):
    monkeypatch.setattr(fits, "AT_ONCE", 64 * 50)  # 50 digits at a time
    made = [
        setup.setup(resolve(tiny(noise=noise, **{"data.pipeline": pipeline})), tmp_path / "x")
        for pipeline in ("resident", "streaming")
    ]
    assert (made[0].given != made[0].source.labels).any()
    np.testing.assert_array_equal(made[0].given, made[1].given)
    assert_same(made[0].statistics, made[1].statistics)


def own(root, **values):
    """A config on a folder."""
    values = {"data.limit": 0, "data.image_size": 8, "batch_size": 8, **values}
    return tiny(**{"data.name": "folder", "data.dir": str(root), **values})


def test_a_folder_ends_the_same_and_may_change_its_pipeline(tmp_path):
    root = photos(tmp_path / "x", (20, 14), splits=("train", "test"))
    ends = []
    for pipeline in ("resident", "streaming"):
        config = own(root, **{"data.pipeline": pipeline})
        experiment.run(config, tmp_path / pipeline)
        ends.append(ended(tmp_path / pipeline))
    assert_same_end(*ends)
    said = [(tmp_path / name / "data.json").read_text() for name in ("resident", "streaming")]
    assert said[0] == said[1]
    experiment.run(own(root, **{"data.pipeline": "resident"}), tmp_path / "streaming")


def test_images_that_do_not_fit_are_streamed(tmp_path, monkeypatch):
    root = photos(tmp_path / "x", (20, 14))
    size = 34 * 8 * 8 * 3
    for room, kind in ((2 * size, np.ndarray), (2 * size - 1, Encoded)):
        monkeypatch.setattr(fits, "room", lambda room=room: room)
        made = setup.setup(resolve(own(root)), tmp_path / "run")
        assert isinstance(made.source.images, kind)
        assert ("data.pipeline=resident keeps them" in made.reviewed) == (kind is Encoded)


def test_memory_is_that_of_the_container_or_the_device_where_it_is_less(tmp_path, monkeypatch):
    monkeypatch.setattr(fits, "LIMITS", ())
    whole = fits.room()
    assert whole == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for text, expected in (("12345\n", 12345), ("max\n", whole), (str(2**63), whole)):
        (tmp_path / "limit").write_text(text)
        monkeypatch.setattr(fits, "LIMITS", (str(tmp_path / "limit"), str(tmp_path / "absent")))
        assert fits.room() == expected

    class Device:
        def memory_stats(self):
            return {"bytes_limit": 99}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert fits.room() == 99


def test_a_pipeline_that_is_not_known_is_one_line():
    with pytest.raises(UserError, match=r"^data\.pipeline must be one of .* did you mean stream"):
        resolve(tiny(**{"data.pipeline": "stream"}))


# --- what cannot be read


def broken(root, *names):
    for name in names:
        (pathlib.Path(root) / "train" / name).write_bytes(b"no image")


def test_a_broken_image_ends_the_run_in_a_line_and_repaired_it_goes_on(tmp_path):
    root = photos(tmp_path / "x", (20, 14))
    path = pathlib.Path(root) / "train" / "b" / "7.png"
    content = path.read_bytes()
    experiment.run(own(root, **STREAMING), tmp_path / "whole")
    setup.setup(resolve(own(root)), tmp_path / "y")  # decoded and kept: it is not looked at
    path.write_bytes(b"no image" + content)
    with pytest.raises(UserError) as caught:
        experiment.run(own(root, **STREAMING), tmp_path / "run")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    path.write_bytes(content)
    experiment.run(own(root, **STREAMING), tmp_path / "run")
    assert_same_end(ended(tmp_path / "run"), ended(tmp_path / "whole"))


def test_the_command_ends_with_status_2(tmp_path):
    root = photos(tmp_path / "x", (20, 14))
    broken(root, "b/7.png")
    run = subprocess.run(
        [
            *MAIN, "--config", f"image_folder:quick,dir={root},size=8,batch_size=8",
            "--config.data.pipeline=streaming", "--workdir", str(tmp_path / "run"),
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert "7.png" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


def test_what_is_skipped_is_left_out_as_of_images_in_memory(tmp_path):
    """In training, of the test set, of a class as a whole; tried once, and said each time."""
    root = photos(tmp_path / "x", (40, 30), ("train", "test"))
    broken(root, "a/3.png", "a/4.png", "b/29.png")
    last = sorted((pathlib.Path(root) / "test" / "a").iterdir())[-1]
    last.write_bytes(b"no image")
    skip = {"data.broken": "skip", "data.validation": 0.2}
    for name, more in (("memory", {}), ("streamed", STREAMING)):
        with pytest.warns(UserWarning, match="4 broken images skipped: .*3.png"):
            experiment.run(own(root, **skip, **more), tmp_path / name)
    assert_same_end(ended(tmp_path / "streamed"), ended(tmp_path / "memory"))
    data = [json.loads((tmp_path / x / "data.json").read_text()) for x in ("memory", "streamed")]
    assert data[0] == data[1]


@pytest.mark.parametrize("stream", [True, False])
def test_where_all_are_broken_nothing_is_left(stream, tmp_path):
    root = photos(tmp_path / "x", (3, 2))
    broken(root, *(f"a/{i}.png" for i in range(3)), *(f"b/{i}.png" for i in range(2)))
    with (
        pytest.warns(UserWarning, match="5 broken images skipped"),
        pytest.raises(UserError, match="hold an image that can be read, got 5 broken images"),
    ):
        sources.load("folder", dir=root, image_size=8, broken="skip", stream=lambda size: stream)


# --- how a program ends


def test_a_signal_saves_and_ends_a_streamed_run(started, tmp_path):  # noqa: F811
    root, run = photos(tmp_path / "x", (40, 30)), tmp_path / "run"
    text = f"image_folder:quick,dir={root},size=8,batch_size=8,relation_guided.epochs=999"
    words = ["--config", f"{text},data.pipeline=streaming", "--workdir", str(run)]
    process = started(*MAIN, *words)
    until_it_trains(run, [process])
    process.send_signal(signal.SIGTERM)
    began = time.time()
    statuses, said = finish([process])
    assert statuses == [143], said
    assert time.time() - began < 30
    assert "Traceback" not in said[0]


END = """
import signal, sys, time
import numpy as np
from rmdnet_jax.data import streaming
from rmdnet_jax.data.encoded import Encoded
class Slow:
    def encoded(self, row):
        time.sleep(0.05)
        raise ValueError
    def name(self, row):
        return str(row)
images = Encoded(Slow(), (2, 2, 1), count=10**4)
def make(i):
    try:
        return images[i * 20 : i * 20 + 20]
    except Exception:
        return i
ahead = streaming.Ahead(make, 500, 32)
ahead(0)
print("ready", flush=True)
"""


def test_a_program_ends_though_images_are_ahead():
    began = time.time()
    run = subprocess.run([sys.executable, "-c", END], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.split() == ["ready"], run.stderr
    assert run.stderr == ""
    assert time.time() - began < 20


@pytest.mark.parametrize(
    ("backend", "side", "pipeline", "streamed"),
    [("tpu", 96, "auto", False), ("tpu", 97, "auto", True), ("cpu", 97, "auto", False),
     ("tpu", 97, "resident", False)],
)  # fmt: skip
def test_a_tpu_gets_large_images_streamed(backend, side, pipeline, streamed, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    images = np.zeros((4, side, side, 3), np.uint8)
    source = sources.arrays(images, [0, 1, 0, 1])
    found = fits.streamed(tiny(**{"data.pipeline": pipeline}), source)
    assert isinstance(found.images, Encoded) == streamed

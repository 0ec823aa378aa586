"""Processes that decode images."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from rmdnet_jax.app import experiment, setup
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.data import workers
from rmdnet_jax.data.encoded import Encoded, Files
from rmdnet_jax.errors import UserError
from tests.conftest import ROOT
from tests.test_streaming import STREAMING, assert_same_end, ended, own, photos

SIZE, COUNT = (6, 5, 3), 41


class Records:
    """Encoded images in memory; one of them cannot be read."""

    def __init__(self, root, names):
        self.content = [(pathlib.Path(root) / name).read_bytes() for name in names]

    def encoded(self, row):
        if self.content[row] is None:
            raise KeyError("no such record")
        return self.content[row]

    def name(self, row):
        return f"record {row}"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Images of several sizes, and what they show at `SIZE`, as threads decode it."""
    root, rng, names = tmp_path_factory.mktemp("photos"), np.random.default_rng(0), []
    for i in range(COUNT):
        height, width = rng.integers(5, 40, 2)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.{'jpg' if i % 2 else 'png'}")
        names.append(f"{i}.{'jpg' if i % 2 else 'png'}")
    return str(root), names, Encoded(Files(str(root), names), SIZE, count=COUNT)[:]


def asked(stored, processes=2):
    return Encoded(stored, SIZE, count=COUNT, workers=processes)


@pytest.mark.parametrize("kind", [Files, Records])
def test_processes_decode_as_threads_do(kind, written):
    root, names, pixels = written
    rows = np.random.default_rng(1).integers(0, COUNT, 60)
    np.testing.assert_array_equal(asked(kind(root, names))[rows], pixels[rows])


def test_what_cannot_be_read_is_named_and_the_next_images_are_right(written):
    root, names, pixels = written
    records = Records(root, names)
    whole, records.content[3] = records.content[3], b"no image"
    for _ in range(3):
        with pytest.raises(UserError, match=r"cannot read record 3 .cannot identify image file"):
            asked(records)[:]
    records.content[3] = None
    with pytest.raises(UserError, match=r"cannot read record 3 .'no such record'"):
        asked(records)[:]
    records.content[3] = whole
    np.testing.assert_array_equal(asked(records)[:], pixels)


def of(processes):
    """The process numbers of a pool's workers."""
    threads = workers.pool(processes)
    jobs = [threads.submit(own_number) for _ in range(20 * processes)]
    found = {job.result() for job in jobs}
    assert len(found) == processes
    return found


def own_number():
    time.sleep(0.01)  # so that another thread takes the next one
    workers.unpack([], np.empty((0, *SIZE), np.uint8))  # starts it, if there is none
    return workers._own.process.pid


def test_signals_do_not_end_a_worker(written):
    root, names, pixels = written
    images = asked(Files(root, names))
    images[:]
    for number in of(2):
        os.kill(number, signal.SIGTERM)
        os.kill(number, signal.SIGINT)
    np.testing.assert_array_equal(images[:], pixels)


def test_a_process_that_is_killed_is_one_line_and_another_takes_its_place(written):
    root, names, pixels = written
    images = asked(Files(root, names), 1)
    images[:]
    os.kill(*of(1), signal.SIGKILL)
    with pytest.raises(UserError, match="a process that decodes images ended with status -9"):
        images[:]
    np.testing.assert_array_equal(images[:], pixels)


def test_they_end_with_the_process_that_asks():
    code = (
        "import time\n"
        "import numpy as np\n"
        "from rmdnet_jax.data import workers\n"
        "def number():\n"
        "    workers.unpack([], np.empty((0, 1, 1, 3), np.uint8))\n"
        "    return workers._own.process.pid\n"
        "print(workers.pool(1).submit(number).result(), flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    number = int(process.stdout.readline())
    os.kill(number, 0)  # it is there
    process.kill()
    process.communicate()
    end = time.monotonic() + 20
    while time.monotonic() < end and running(number):
        time.sleep(0.05)
    assert not running(number)


def running(number):
    """Whether a process runs; one that has ended, and that nobody waits for, does not."""
    try:
        return pathlib.Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


FORK = """
import os, sys
import numpy as np
from rmdnet_jax.data.encoded import Encoded, Files
root, count = sys.argv[1], int(sys.argv[2])
images = Encoded(Files(root, sys.argv[3:]), (6, 5, 3), count=count, workers=1)
pixels = images[:]
child = os.fork()
same = (images[:] == pixels).all()
if child == 0:
    os._exit(0 if same else 1)
assert same
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_decodes_with_processes_of_its_own(written):
    root, names, _ = written
    command = [sys.executable, "-W", "ignore", "-c", FORK, root, str(COUNT), *names]  # 3.12 warns
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (run.returncode, run.stderr) == (0, "")


def test_where_none_can_start_is_one_line(written, monkeypatch):
    root, names, pixels = written
    images = asked(Files(root, names), 3)
    with monkeypatch.context() as broken:
        broken.setattr(workers.sys, "executable", "/no/such/python")
        with pytest.raises(UserError, match="a process that decodes images cannot start"):
            images[:]
    np.testing.assert_array_equal(images[:], pixels)


def test_modules_of_the_folder_are_not_theirs(written, tmp_path, monkeypatch):
    root, names, pixels = written
    (tmp_path / "numpy.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(asked(Files(root, names), 4)[:], pixels)


def test_a_run_ends_the_same_with_any_number_of_them(tmp_path):
    root = photos(tmp_path / "x", (20, 14))
    experiment.run(own(root, **STREAMING), tmp_path / "threads")
    more = {**STREAMING, "data.workers": 2}
    experiment.run(own(root, **more, epochs=1), tmp_path / "run")
    experiment.run(own(root, **{**more, "data.workers": 1}), tmp_path / "whole")
    assert_same_end(ended(tmp_path / "whole"), ended(tmp_path / "threads"))
    experiment.run(own(root, **STREAMING, epochs=1), tmp_path / "run")  # finished: a harmless field


def test_a_config_says_how_many(tmp_path):
    config = resolve(own(photos(tmp_path / "x"), **STREAMING, **{"data.workers": 2}))
    assert setup.setup(config, tmp_path / "run").source.images.workers == 2


def test_a_number_that_cannot_be_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"data.workers must be in \[0, 1024\], got -1"):
        experiment.run(own(str(tmp_path), **{"data.workers": -1}), tmp_path / "run")

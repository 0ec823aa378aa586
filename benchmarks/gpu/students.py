"""P8: students of a teacher that was carried along: CE, RMDNet, corrected labels, both.

    python -m benchmarks.gpu.students DATA.npz WEIGHTS.npz OUT.json \
        [--noises symmetric worse asymmetric] [--human cifar10n.npz] [--seconds 300]

`WEIGHTS.npz` is what `benchmarks.gpu.teacher` leaves. The recipe is `configs/cifar10_speedrun.py`
with a tenth of the labels held out; `--set name=value` changes it. A row an arm: accuracy after the
last epoch, and on the noisy labels that were held out. The first arm, CE, is the control.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import tempfile
import time

import jax
import numpy as np

from benchmarks.gpu.record import Record
from rmdnet_jax.app import correct, experiment, identity, learning, teacher
from rmdnet_jax.app.load import get_config
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.app.setup import Run, setup
from rmdnet_jax.networks import weights

ARMS = ("base", "rmdnet", "propagation", "rmdnet_propagation")
NOISES = {
    "symmetric": {"noise": "symmetric", "rate": 0.5},
    "worse": {"noise": "file", "field": "worse_label"},  # of CIFAR-10N
    "asymmetric": {"noise": "asymmetric", "rate": 0.4, "noise.mapping": "cifar10"},
}

TOLD = (
    "used",
    "in_doubt",
    "changed",
    "right",
    "neighbours",
    "temperature",
    "alpha",
)  # of the graph


def carried(made: Run, path: str, to: pathlib.Path) -> None:
    """Writes the carried network as a teacher that a config can name."""
    places, shape = jax.tree_util.tree_flatten_with_path(teacher.shapes(made))
    with np.load(path) as file:
        leaves = [file[jax.tree_util.keystr(place)].astype(np.float32) for place, _ in places]
    weights.write(to, weights.state_dict(jax.tree.unflatten(shape, leaves)), {})


def prepared(args: argparse.Namespace, noise: str, folder: pathlib.Path) -> Run:
    """The experiment with a noise and the carried teacher."""
    given = dict(text.split("=", 1) for text in args.set)
    human = {"path": args.human} if noise == "worse" else {}
    values = {"data.name": "npz", "dir": args.data, "validation": 0.1, "controls": ARMS}
    values |= {**NOISES[noise], **human, **given}
    made = setup(resolve(get_config("cifar10_speedrun", values)), folder / "none")
    path = folder / "teacher.safetensors"
    carried(made, args.weights, path)
    config = resolve(get_config("cifar10_speedrun", {**values, "teacher": str(path)}))
    return setup(config, folder / noise)


def students(made: Run, args: argparse.Namespace, record: Record, noise: str) -> None:
    """A row for each arm that is started in time."""
    guide = teacher.prepared(made)
    assert isinstance(guide, teacher.Teacher)
    parts = learning.learner(made)
    with contextlib.closing(made.owner):
        made, labels = experiment.begin(made, {}, guide, ())
        began = time.perf_counter()
        corrected = correct.corrected(made, guide.features, identity.of_teacher(guide))
        found = {name: corrected.summary[name] for name in TOLD if name in corrected.summary}
        seconds = time.perf_counter() - began
        record.add(case=f"{noise}: correction", wrong=labels["rate"], seconds=seconds, **found)
        for arm in sorted(made.arms, key=lambda arm: ARMS.index(arm.name)):
            if record.seconds() > args.seconds:
                return
            began = time.perf_counter()
            row, *_ = experiment.result(made, parts, arm, guide, corrected)
            left_out = ("arm", "settings", "propagation", "graph")
            found = {name: x for name, x in row.items() if name not in left_out}
            seconds = time.perf_counter() - began
            record.add(case=f"{noise}: {arm.name}", total_seconds=seconds, **found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("weights")
    parser.add_argument("out")
    parser.add_argument("--noises", nargs="+", default=NOISES, choices=NOISES)
    parser.add_argument("--human", default=".gpu/cifar10n.npz", help="the labels of CIFAR-10N")
    parser.add_argument("--set", nargs="*", default=[], help="name=value of the config")
    parser.add_argument("--seconds", type=float, default=300, help="start no arm after these")
    args = parser.parse_args()
    record = Record(args.out, "students")
    for noise in args.noises:
        if record.seconds() < args.seconds:
            with tempfile.TemporaryDirectory() as folder:
                students(prepared(args, noise, pathlib.Path(folder)), args, record, noise)


if __name__ == "__main__":
    main()

"""P7: a SimSiam teacher of CIFAR-10 in a given time, and what weaker ones it passed on the way.

    python -m benchmarks.gpu.teacher DATA.npz OUT --steps STEPS.json --seconds 400

`STEPS.json` of `benchmarks.gpu.steps` says how long a step takes, so how many epochs fit. OUT gets
`teacher.json`, `weights.npz` (float16), `teacher.npz` (features, their 128 main directions) and
`passed_*.npz`: 64 directions of the features when kNN accuracy passed some bounds on the way.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time

import jax
import numpy as np

from benchmarks.gpu.record import Record
from rmdnet_jax import evaluation, files
from rmdnet_jax.app import teacher
from rmdnet_jax.app.overrides import override
from rmdnet_jax.app.presets import cifar
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.app.setup import setup
from rmdnet_jax.training import steps
from rmdnet_jax.types import Variables

EARLY = (1, 2, 3, 5, 8, 12, 18, 26, 40)  # epochs that are looked at, and then each 50th
BOUNDS = (0.46, 0.52, 0.62, 0.75)  # of kNN accuracy
EVALUATION = 3.0  # seconds, so much is set aside for each


def epochs_within(seconds: float, steps: str, batch: int, examples: int) -> int:
    """The epochs that fit, one at least."""
    rows = json.loads(pathlib.Path(steps).read_text())["rows"]
    ms = next(row["ms"] for row in rows if row["case"] == "simsiam" and row["batch"] == batch)
    an_epoch = examples // batch * ms / 1e3 * 1.04
    return max(1, int((seconds - EVALUATION * len(EARLY)) / (an_epoch + EVALUATION / 50)))


def directions(features: np.ndarray, count: int) -> np.ndarray:
    """The features' main directions, float16 [n, count]; the mean is left in."""
    product = features.T @ features
    return (features @ np.linalg.eigh(product)[1][:, ::-1][:, :count]).astype(np.float16)


def keep(out: pathlib.Path, encoder: Variables, features: np.ndarray) -> None:
    """Writes the network, and the features' directions."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(encoder))
    arrays = {jax.tree_util.keystr(path): np.asarray(x, np.float16) for path, x in leaves}
    assert all(np.isfinite(x).all() for x in arrays.values())
    files.write_arrays(out / "weights.npz", **arrays)
    np.savez(out / "teacher.npz", features=directions(features, 128))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--steps", required=True)
    parser.add_argument("--seconds", type=float, default=400)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--batch", type=int, default=512)
    args = parser.parse_args()
    began = time.perf_counter()
    record = Record(str(args.out / "teacher.json"), "teacher")
    with np.load(args.data) as file:
        size = len(file["labels"])
    epochs = epochs_within(args.seconds, args.steps, args.batch, size)
    values = {"data.name": "npz", "data.dir": args.data, "encoder": args.encoder,
              "relation_modeling.batch_size": args.batch, "relation_modeling.epochs": epochs,
              "checkpoint_steps": 10**9}  # fmt: skip
    if jax.default_backend() != "cpu":
        values["encoder.dtype"] = "bfloat16"
    config = resolve(override(cifar("cifar10"), values))
    made = setup(config, pathlib.Path(args.data).parent / "teacher")
    stage = teacher.prepared(made)
    assert isinstance(stage, steps.Stage)  # no teacher is named
    left = list(BOUNDS)

    def watched(variables, epoch, values):
        if epoch not in EARLY and epoch % 50 and epoch != epochs:
            return {}
        encoder = Variables(variables.params["encoder"], variables.stats["encoder"])
        source = made.source
        bank, query = (made.features(encoder, x) for x in (source.images, source.test_images))
        predicted = teacher.nearest(made)(bank, source.labels, query)
        found = evaluation.accuracy(predicted, source.test_labels)
        about = {"epoch": epoch, "knn": found, "loss": values["loss"], "z_std": values["z_std"]}
        record.add(case="epoch", seconds=time.perf_counter() - began, **about)
        while left and found >= left[0]:
            name = f"passed_{100 * left.pop(0):.0f}.npz"
            np.savez(args.out / name, features=directions(bank, 64), knn=found, epoch=epoch)
        if epoch >= 50:  # a run that is cut short leaves what it had
            keep(args.out, encoder, bank)
        return {"knn_accuracy": found}

    found = teacher.trained(made, stage._replace(evaluate=watched))
    assert found.variables is not None
    keep(args.out, found.variables, found.features)
    record.add(case="done", total_seconds=time.perf_counter() - began, teacher=found.summary)


if __name__ == "__main__":
    main()

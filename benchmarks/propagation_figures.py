"""The figures of docs/propagation.md, from a digits teacher: what it does, costs, when it fails.

python -m benchmarks.propagation_figures --teacher runs/propagation/teacher/0 --out docs
"""

from __future__ import annotations

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from rmdnet_jax import evaluation
from rmdnet_jax.app import setup as run
from rmdnet_jax.app import teacher as teachers
from rmdnet_jax.app.load import get_config
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.labels import noise
from rmdnet_jax.relations import neighbours, propagation

NOISES = {
    "pair 40 %": ("pair", 0.4),
    "symmetric 50 %": ("symmetric", 0.5),
    "symmetric 80 %": ("symmetric", 0.8),
    "none": ("pair", 0.0),
}
CLASSES = 10
# for asymmetric noise: 1 as 7, 3 and 5 as 9, 8 as 3, so that some classes gain labels and some lose
MISTAKEN = "0 7 2 9 4 9 6 7 3 9"


def given_labels(
    kind: str, rate: float, clean: np.ndarray, images: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    fields = (
        {}
        if kind == "none"
        else {"rate": rate, "mapping": MISTAKEN}
        if kind == "asymmetric"
        else {"rate": rate}
    )
    return np.asarray(
        noise.make(kind, num_classes=CLASSES, seed=seed, **fields).labels(
            np.arange(len(clean)), clean, images
        )
    )


def teacher_of(workdir: str) -> tuple[run.Run, np.ndarray, np.ndarray]:
    """A digits run, and its teacher's features of the training and the test images."""
    config = resolve(get_config("digits", {"teacher": workdir}))
    made = run.setup(config, pathlib.Path(workdir, "unwritten"))
    teacher = teachers.prepared(made)
    assert isinstance(teacher, teachers.Teacher)
    assert teacher.test_features is not None
    return made, teacher.features, teacher.test_features


def idea(features: np.ndarray, clean: np.ndarray, path: pathlib.Path) -> None:
    """Features in their first two principal directions, coloured by labels before and after."""
    centred = features - features.mean(0)
    plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    given = given_labels("pair", 0.4, clean)
    target = propagation.propagate(features, given, CLASSES).targets.argmax(1)
    drawing = Figure(figsize=(7.8, 3), layout="constrained")
    for axes, (name, labels) in zip(
        drawing.subplots(1, 3),
        {"given, pair 40 %": given, "corrected": target, "clean": clean}.items(),
    ):
        axes.scatter(*plane.T, c=labels, cmap="tab10", s=3)
        axes.set_title(f"{name}: {100 * np.mean(labels == clean):.1f} % right", fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    drawing.savefig(path, dpi=110)


def cost(path: pathlib.Path) -> None:
    """Seconds against examples, 512 dimensions: neighbours, and all else at given settings."""
    sizes, times = (6250, 12_500, 25_000, 50_000), []
    for size in sizes:
        clean = np.arange(size, dtype=np.int32) % CLASSES
        features = np.random.default_rng(0).normal(size=(size, 512)).astype(np.float32)
        features[np.arange(size), clean] += 20
        given = given_labels("symmetric", 0.5, clean)
        began = time.perf_counter()
        jax.block_until_ready(neighbours.exact(jnp.asarray(features), 10))
        middle = time.perf_counter()
        propagation.propagate(features, given, CLASSES, neighbours=10, temperature=0.05, alpha=0.9)
        times.append((middle - began, time.perf_counter() - middle))
        print(size, times[-1], flush=True)
    drawing = Figure(figsize=(5, 3.6), layout="constrained")
    axes = drawing.subplots()
    for values, name in zip(zip(*times), ("10 nearest neighbours", "targets, neighbours included")):
        axes.loglog(sizes, values, "o-", label=name)
    axes.loglog(sizes, [times[-1][0] * (n / sizes[-1]) ** 2 for n in sizes], "k:", label="n²")
    axes.set(xlabel="examples, 512 dimensions", ylabel="seconds, two cores")
    axes.legend()
    axes.grid(alpha=0.3)
    drawing.savefig(path, dpi=110)


def fails(
    features: np.ndarray, query: np.ndarray, clean: np.ndarray, test: np.ndarray, path: pathlib.Path
) -> None:
    """Right labels after propagation against the teacher's accuracy, as its features drown."""
    drawing = Figure(figsize=(6, 4), layout="constrained")
    axes, size = drawing.subplots(), features.std()
    draw = np.random.default_rng(0).normal
    drowned = [
        tuple(x + s * size * draw(size=x.shape) for x in (features, query))
        for s in (0, 0.5, 1, 1.5, 2, 3, 4, 6, 10)
    ]
    known = [
        100 * np.mean(evaluation.knn(bank, clean, part, CLASSES, k=20) == test)
        for bank, part in drowned
    ]
    for i, (name, (kind, rate)) in enumerate(NOISES.items()):
        given = given_labels(kind, rate, clean)
        right = [
            100 * np.mean(propagation.propagate(bank, given, CLASSES).targets.argmax(1) == clean)
            for bank, _ in drowned
        ]
        print(
            name, *(f"kNN {k:.0f} %: {r:.1f} %" for k, r in zip(known, right)), sep="; ", flush=True
        )
        axes.plot(known, right, f"C{i}o-", label=name)
        axes.axhline(100 * np.mean(given == clean), color=f"C{i}", linestyle="--", linewidth=0.8)
    axes.set(
        xlabel="teacher's kNN accuracy with clean labels, %",
        ylabel="labels right after propagation, %",
        ylim=(0, 101),
    )
    axes.legend(title="dashed: as given")
    axes.grid(alpha=0.3)
    drawing.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", required=True, help="workdir of a digits run")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs"))
    args = parser.parse_args()
    made, features, query = teacher_of(args.teacher)
    idea(features, made.source.labels, args.out / "propagation_idea.png")
    fails(
        features,
        query,
        made.source.labels,
        made.source.test_labels,
        args.out / "propagation_fails.png",
    )
    cost(args.out / "propagation_cost.png")


if __name__ == "__main__":
    main()

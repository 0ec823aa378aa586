"""What a person looks at: lines of text, tables, figures. Accuracies are shown in %, rates as in the config.

`python -m rmdnet_jax.report table runs/a runs/b ...` makes one table of several runs.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import platform
import subprocess
from importlib import metadata

import jax
import numpy as np
from jax.sharding import Mesh

from rmdnet_jax.app import tables
from rmdnet_jax.app.tables import COLUMNS, arm_of, name_of
from rmdnet_jax.data.sources import Source
from rmdnet_jax.errors import UserError
from rmdnet_jax.relations import losses as relation
from rmdnet_jax.types import Config


def describe(config: Config, source: Source, labels: dict) -> str:
    """The first lines of a run: its data and its noise."""
    n, shape = len(source.labels), "x".join(map(str, source.images.shape[1:]))
    rate = (
        "unknown rate (labels as they are)"
        if labels["rate"] is None
        else f"{labels['rate']:.4f} of the labels are wrong"
    )
    lines = [
        f"data   {source.name}: {n} training and {len(source.test_labels)} test images of {shape}, {len(source.names)} classes",
        f"noise  {config.noise.name}, seed {config.noise.seed}: {rate}, sha256 {labels['sha256'][:16]}",
    ]
    return "\n".join([*lines, *("       " + line for line in matrix(labels["transition"]))])


def propagated(about: dict) -> str:
    """What became of the labels over the graph, in a line."""
    graph = f"graph  {about['neighbours']} neighbours, temperature {about['temperature']:g}, alpha {about['alpha']:g}: "
    agreement = f"neighbours' labels agree in {about['neighbour_agreement']:.3f} of pairs, chance {about['chance_agreement']:.3f}"
    if not about["used"]:
        return f"{graph}in doubt, so labels stay as given ({agreement})"
    right = f", then {about['right']:.4f} are right" if "right" in about else ""
    doubt = "in doubt, used nevertheless: " if about["in_doubt"] else ""
    return f"{graph}{doubt}{about['changed']:.4f} of the labels are changed{right} ({agreement})"


def matrix(transition: list[list[float]]) -> list[str]:
    """A transition matrix as lines of text; none where it would be too wide to read."""
    if len(transition) > 20:
        return []
    rows = [
        " ".join(f"{100 * share:3.0f}" if share else "  ." for share in row) for row in transition
    ]
    return ["share of each class (row) given each label (column), %", *rows]


def transition(shares: np.ndarray, names: tuple[str, ...], path: pathlib.Path) -> None:
    """The transition matrix [C, C] as a figure, in %."""
    side = 1.5 + 0.45 * min(len(names), 20)
    figure, axes = _figure(1, 1, (side + 1, side))
    axis, few = axes[0][0], len(names) <= 20
    image = axis.imshow(100 * shares, cmap="magma_r", vmin=0, vmax=100)
    for (i, j), share in np.ndenumerate(shares) if few else ():
        if share:
            axis.text(
                j,
                i,
                f"{100 * share:.0f}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if share > 0.5 else "black",
            )
    places = range(len(names)) if few else ()
    axis.set_xticks(places, [names[i] for i in places], rotation=90)
    axis.set_yticks(places, [names[i] for i in places])
    axis.set(xlabel="given label", ylabel="clean label")
    figure.colorbar(image, label="share of the clean class, %")
    _save(figure, path)


def environment(mesh: Mesh) -> dict:
    """Versions, devices and the source's git revision."""
    versions = {
        name: metadata.version(name)
        for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    }
    device = mesh.devices.flat[0]
    return {
        "python": platform.python_version(), **versions, "git": _revision(),
        "device": device.device_kind, "devices": mesh.size, "platform": device.platform,
        "processor": _processor(), "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }  # fmt: skip


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _revision() -> str | None:
    """The git revision of this source tree, marked where it has changes; None outside a checkout."""
    here = pathlib.Path(__file__).resolve().parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    return answer.stdout.strip() or None


def table(summary: dict, config: Config) -> str:
    """The accuracies of the result and its controls, one column each, and what else is worth a line."""
    arms = {
        arm_of(config.relation_guided.to_dict()): summary["relation_guided"],
        **summary["controls"],
    }
    rows = {name_of(config.relation_guided.method.name, arm): row for arm, row in arms.items()}
    width = max(map(len, rows))
    lines = [f"{'test accuracy, %':{width}}  " + "  ".join(f"{c:>12}" for c in COLUMNS.values())]
    for name, row in rows.items():
        cells = [row["test_accuracy"].get(c) for c in COLUMNS]
        shown = ["–" if value is None else f"{100 * value:.2f}" for value in cells]
        lines.append(
            f"{name:{width}}  "
            + "  ".join(f"{cell:>{max(12, len(c))}}" for cell, c in zip(shown, COLUMNS.values()))
        )
    if "knn_accuracy" in summary["relation_modeling"]:
        lines.append(
            f"teacher kNN with clean labels (an evaluation only): {100 * summary['relation_modeling']['knn_accuracy']:.2f} %"
        )
    return "\n".join(lines)


def _figure(rows: int, columns: int, size: tuple[float, float]):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")


def _save(figure, path: pathlib.Path) -> None:
    import matplotlib.pyplot as plt

    if path.suffix != ".png":
        raise UserError(f"a figure's name must end in .png, got {str(path)!r}")
    part = path.with_suffix(".part.png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(part, dpi=120)
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"figure {str(path)!r} cannot be written: {error.strerror}") from None
    plt.close(figure)


def curves(records: list[dict], path: pathlib.Path) -> None:
    """Test accuracy and training accuracy on given and on clean labels over epochs, one panel a student: memorisation is seen
    where accuracy on given labels rises above that on clean ones while test accuracy falls."""
    stages = list(dict.fromkeys(r["stage"] for r in records if r["stage"] != "relation_modeling"))
    figure, axes = _figure(1, len(stages), (4.2 * len(stages), 3.6))
    for axis, stage in zip(axes[0], stages):
        rows = [r for r in records if r["stage"] == stage]
        for name, label, style in (
            ("test_accuracy", "test, clean labels", "C0-"),
            ("train_accuracy_clean", "training, clean labels", "C2--"),
            ("train_accuracy_given", "training, given labels", "C3:"),
        ):
            points = [(r["epoch"], 100 * r[name]) for r in rows if name in r]
            if points:
                axis.plot(*zip(*points), style, label=label)
        axis.set(
            title=stage.removeprefix("controls/").replace("_", " "), xlabel="epoch", ylim=(0, 101)
        )
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("accuracy, %")
    axes[0][0].legend(loc="lower right")
    _save(figure, path)


def relations(
    features: dict[str, np.ndarray], labels: np.ndarray, temperature: float, path: pathlib.Path
) -> None:
    """Relation matrices of one batch sorted by clean class, one panel a network; bright blocks on the diagonal are classes together."""
    if not features:
        return
    figure, axes = _figure(1, len(features), (4.0 * len(features), 4.0))
    bounds = np.flatnonzero(np.diff(labels)) + 0.5
    for axis, (name, feature) in zip(axes[0], features.items()):
        image = np.asarray(relation.matrix(jax.numpy.asarray(feature), temperature))
        axis.imshow(
            image, cmap="magma", vmin=0, vmax=np.quantile(image, 0.99), interpolation="nearest"
        )
        axis.set(title=name.replace("_", " "), xticks=[], yticks=[])
        for bound in bounds:
            axis.axhline(bound, color="white", lw=0.3)
            axis.axvline(bound, color="white", lw=0.3)
    figure.suptitle(
        f"relations in one batch, sorted by class (temperature {temperature:g})", fontsize=10
    )
    _save(figure, path)


def scores(rows: list[tables.Row], column: str, path: pathlib.Path) -> None:
    """A table's rows as a figure, one panel a noise: each seed a dot, over them mean and standard deviation."""
    places = [*tables.ARMS, *tables.OURS]
    rows = sorted(rows, key=lambda row: (row.method, places.index(row.arm)))
    settings, _ = tables.labels(rows)
    names = [
        ", ".join(filter(None, (name_of(row.method, row.arm), own)))
        for row, own in zip(rows, settings)
    ]
    order = list(dict.fromkeys(names))
    noises = sorted({row.noise for row in rows})
    figure, axes = _figure(1, len(noises), (4.5 + 4.0 * len(noises), 1.2 + 0.22 * len(order)))
    for i, (axis, noise) in enumerate(zip(axes[0], noises)):
        for row, name in zip(rows, names):
            if row.noise == noise:
                values, place, colour = (
                    np.array(list(row.values.values())),
                    order.index(name),
                    f"C{places.index(row.arm)}",
                )
                axis.plot(values, np.full(len(values), place), ".", color=colour, alpha=0.3, ms=4)
                axis.errorbar(
                    values.mean(),
                    place,
                    xerr=values.std(ddof=min(1, len(values) - 1)),
                    fmt="o",
                    color=colour,
                    ms=4,
                )
        axis.set(title=noise, xlabel=f"{COLUMNS[column]}, %", ylim=(len(order) - 0.5, -0.5))
        axis.set_yticks(range(len(order)), order if i == 0 else [])
        axis.grid(alpha=0.3)
    _save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m rmdnet_jax.report", description=__doc__)
    runs = parser.add_subparsers(required=True).add_parser(
        "table", help="runs over seeds", description=tables.__doc__
    )
    runs.add_argument("runs", nargs="+", help="workdirs of finished runs")
    runs.add_argument(
        "--column",
        choices=list(tables.COLUMNS),
        default="last",
        help="the accuracy; columns are never mixed",
    )
    runs.add_argument(
        "--best",
        action="store_true",
        help="of each arm, only the settings of the highest mean, for a search",
    )
    runs.add_argument("--csv", default="", help="a file for the same table as CSV")
    runs.add_argument("--figure", default="", help="a .png file for the same table as a figure")
    args = parser.parse_args()
    try:
        rows = tables.rows(args.runs, args.column, args.best)
        lines = tables.compare(rows, args.column)
        if args.csv:
            tables.write_csv(lines, args.csv)
        if args.figure:
            scores(rows, args.column, pathlib.Path(args.figure))
    except UserError as error:
        parser.error(str(error))
    print(tables.markdown(lines))


if __name__ == "__main__":
    main()

"""What a person reads: the lines of a run, tables of several runs. Accuracies are shown in %.

`rmdnet report table runs/a runs/b ...` makes one table of several runs.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import platform
import subprocess
from importlib import metadata

from jax.sharding import Mesh

from rmdnet_jax import sharding
from rmdnet_jax.app import tables
from rmdnet_jax.app.arms import title
from rmdnet_jax.app.schema import Config
from rmdnet_jax.app.tables import COLUMNS
from rmdnet_jax.data.sources import Source


def say(text: str) -> None:
    """Prints from the main process only."""
    if sharding.is_main():
        print(text, flush=True)


def describe(config: Config, source: Source, labels: dict) -> str:
    """The first lines of a run: its data and its noise."""
    n, shape = len(source.labels), "x".join(map(str, source.images.shape[1:]))
    rate = (
        "unknown rate (labels as they are)"
        if labels["rate"] is None
        else f"{labels['rate']:.4f} of the labels are wrong"
    )
    lines = [
        f"data   {source.name}: {n} training and {len(source.test_labels)} test images of {shape}, "
        f"{len(source.names)} classes",
        f"noise  {config.noise.name}, seed {config.noise.seed}: {rate}, "
        f"sha256 {labels['sha256'][:16]}",
    ]
    shares = matrix(labels["transition"]) if labels["rate"] is not None else []
    return "\n".join([*lines, *("       " + line for line in shares)])


def propagated(about: dict) -> str:
    """What became of the labels over the graph, in a line."""
    graph = (
        f"graph  {about['neighbours']} neighbours, temperature {about['temperature']:g}, "
        f"alpha {about['alpha']:g}: "
    )
    agreement = (
        f"neighbours' labels agree in {about['neighbour_agreement']:.3f} of pairs, "
        f"chance {about['chance_agreement']:.3f}"
    )
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
        "processor": _processor(), "cores": _cores(),
    }  # fmt: skip


def _cores() -> int | None:
    own = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(own(0)) if own else os.cpu_count()


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _revision() -> str | None:
    """The git revision of this source tree, marked where changed; None outside a checkout."""
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


def table(summary: dict) -> str:
    """The accuracies of an experiment's arms, one column each, and what else is worth a line."""
    own = summary["relation_guided"]
    arms = {own["arm"]: own, **summary["controls"]}
    method = own["settings"]["relation_guided.method.name"]
    rows = {_name(method, arm, row): row for arm, row in arms.items()}
    if own["test_accuracy"]["last"] is None:
        return untested(rows)
    width = max(map(len, rows))
    heads = {column: max(12, len(name)) for column, name in COLUMNS.items()}
    lines = [
        f"{'test accuracy, %':{width}}  " + "  ".join(f"{COLUMNS[c]:>{heads[c]}}" for c in heads)
    ]
    for name, row in rows.items():
        cells = {column: row["test_accuracy"].get(column) for column in COLUMNS}
        shown = {c: "–" if value is None else f"{100 * value:.2f}" for c, value in cells.items()}
        lines.append(f"{name:{width}}  " + "  ".join(f"{shown[c]:>{heads[c]}}" for c in heads))
    if (knn := summary["relation_modeling"].get("knn_accuracy")) is not None:
        known = summary["noise"]["rate"] is not None
        labels = "clean labels (an evaluation only)" if known else "the labels as they are"
        lines.append(f"teacher kNN with {labels}: {100 * knn:.2f} %")
    return "\n".join(lines)


def _name(method: str, arm: str, row: dict) -> str:
    """An arm's title; labels that could not be corrected are said to be as given."""
    doubt = not row.get("propagation", {}).get("used", True)
    return title(method, arm) + (" (in doubt: as given)" if doubt else "")


def untested(rows: dict[str, dict]) -> str:
    """What can be said without a test set."""
    held = {
        name: row["validation_accuracy"]
        for name, row in rows.items()
        if "validation_accuracy" in row
    }
    if not held:
        return "no test set, so nothing to measure by; hold out given labels: validation=0.1"
    width = max(map(len, held))
    lines = [f"{name:{width}}  {100 * value:6.2f}" for name, value in held.items()]
    return "\n".join(["accuracy on held-out given labels, which may be wrong, %", *lines])


def main(argv: list[str] | None = None) -> int:
    """The command `rmdnet report`."""
    from rmdnet_jax.app import figures

    parser = argparse.ArgumentParser(prog="rmdnet report", description=__doc__)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("table", help="runs over seeds", description=tables.__doc__)
    runs.add_argument("runs", nargs="+", help="workdirs of finished runs")
    runs.add_argument(
        "--column", choices=list(COLUMNS), default="last", help="columns are never mixed"
    )
    runs.add_argument("--best", action="store_true", help="of each arm, only its best settings")
    runs.add_argument("--csv", default="", help="a file for the same table as CSV")
    runs.add_argument("--figure", default="", help="a .png file for the same table as a figure")
    args = parser.parse_args(argv)
    rows = tables.rows(args.runs, args.column, args.best)
    lines = tables.compare(rows, args.column)
    if args.csv:
        tables.write_csv(lines, args.csv)
    if args.figure:
        figures.scores(rows, args.column, pathlib.Path(args.figure))
    print(tables.markdown(lines))
    return 0

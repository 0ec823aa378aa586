"""What a person reads: the lines of a run, tables of several runs. Accuracies are shown in %.

`rmdnet report table runs/a runs/b ...` makes one table of several runs.
"""

from __future__ import annotations

import pathlib
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata

from jax.sharding import Mesh

import rmdnet_jax
from rmdnet_jax import sharding
from rmdnet_jax.app import doctor, figures, tables
from rmdnet_jax.app.arms import Arm, method_title, title
from rmdnet_jax.app.command import Parser, spoken
from rmdnet_jax.app.schema import Config
from rmdnet_jax.app.tables import COLUMNS
from rmdnet_jax.data.sources import Source
from rmdnet_jax.files import place
from rmdnet_jax.labels.signals import doubted


def say(text: str) -> None:
    """Prints from the main process only."""
    spoken()
    if sharding.is_main():
        print(text, flush=True)


def describe(config: Config, source: Source, labels: dict, reviewed: str = "") -> str:
    """The first lines of a run: its data, its noise and what a review has changed."""
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
    lines += ["       " + line for line in shares]
    return "\n".join([*lines, reviewed] if reviewed else lines)


def graph(about: dict, arms: Sequence[Arm]) -> str:
    """What the graph tells these arms, in lines: corrected labels, or the noise rate."""
    lines = [propagated(about)] if any(arm.targets != "given" for arm in arms) else []
    if any(arm.reads_rate for arm in arms):
        between = f"{about['noise_low']:.3f} to {about['noise_high']:.3f}"
        doubt = f"; in doubt, used nevertheless: {doubted(about)}" if about["in_doubt"] else ""
        lines.append(
            f"graph  {about['neighbours']} neighbours: {about['noise_rate']:.3f} of the given "
            f"labels are wrong, 95 % interval {between}{doubt}"
        )
    return "\n".join(lines)


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
        return (
            f"{graph}in doubt, so labels stay as given; in_doubt=use corrects them ({agreement})\n"
            f"       {doubted(about)}"
        )
    right = f", then {about['right']:.4f} are right" if "right" in about else ""
    doubt = "in doubt, used nevertheless: " if about["in_doubt"] else ""
    return f"{graph}{doubt}{about['changed']:.4f} of the labels are changed{right} ({agreement})"


def compared(number: int, found: dict) -> str:
    """What a round of correction brought."""
    if "gain" not in found:
        return f"round {number}  the student's graph is in doubt, so rounds end"
    gain, error = found["gain"], found["standard_error"]
    done = "accepted" if found["accepted"] else "not accepted, so rounds end"
    return (
        f"round {number}  log-likelihood of held-out given labels {found['evidence']:.4f}, "
        f"gain {gain:+.4f} ± {error:.4f}: {done}"
    )


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
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {name: metadata.version(name) for name in names}
    device = mesh.devices.flat[0]
    return {
        "python": platform.python_version(), **versions, "git": _revision(),
        "device": device.device_kind, "devices": mesh.size, "platform": device.platform,
        "processor": _processor(), "cores": doctor.cores(),
    }  # fmt: skip


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("model name"))
        return line.split(":", 1)[1].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _revision() -> str | None:
    """The git revision of this source tree, marked where changed; None outside a checkout."""
    root = pathlib.Path(rmdnet_jax.__file__).resolve().parent.parent

    def git(*words: str) -> str:
        answer = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True)
        return answer.stdout.strip()

    try:  # a package installed within somebody's checkout has not that one's revision
        top, own = git("rev-parse", "--show-toplevel"), git("ls-files", "rmdnet_jax/__init__.py")
        if not own or pathlib.Path(top).resolve() != root:
            return None
        return git("describe", "--always", "--dirty", "--abbrev=12") or None
    except OSError:
        return None


def table(summary: dict) -> str:
    """The accuracies of an experiment's arms, one column each, and what else is worth a line."""
    own = summary["relation_guided"]
    arms = {own["arm"]: own, **summary["controls"]}
    method = method_title(own["settings"])
    rows = {_name(method, arm, row): row for arm, row in arms.items()}
    if own["test_accuracy"]["last"] is None:
        return untested(rows)
    width = max(map(len, rows))
    held = any(tables.accuracy(row, "validation") is not None for row in rows.values())
    titles = {column: name for column, name in COLUMNS.items() if held or column != "validation"}
    heads = {column: max(12, len(name)) for column, name in titles.items()}

    def line(name: str, cells: dict[str, str]) -> str:
        return "  ".join([f"{name:{width}}", *(f"{cells[c]:>{heads[c]}}" for c in heads)])

    lines = [line("test accuracy, %", titles)]
    for name, row in rows.items():
        cells = {column: tables.accuracy(row, column) for column in titles}
        shown = {c: "–" if value is None else f"{100 * value:.2f}" for c, value in cells.items()}
        lines.append(line(name, shown))
    if (knn := summary["relation_modeling"].get("knn_accuracy")) is not None:
        known = summary["noise"]["rate"] is not None
        labels = "clean labels (an evaluation only)" if known else "the labels as they are"
        lines.append(f"teacher kNN with {labels}: {100 * knn:.2f} %")
    if blind := [name for name, row in rows.items() if row["test_accuracy"]["last"] is None]:
        lines.append(f"–: the teacher gave no test_features: {', '.join(blind)}")
    told = [rate(name, row["noise_rate"]) for name, row in rows.items() if "noise_rate" in row]
    found = [strength(name, row) for name, row in rows.items() if "graph" in row]
    return "\n".join([*lines, *told, *found])


def rate(arm: str, about: dict) -> str:
    """The noise rate that an arm's method took its labels to have, in a line."""
    between = f", {about['low']:.3f} to {about['high']:.3f}" if "low" in about else ""
    doubt = ", in doubt" if about.get("in_doubt") else ""
    error = "" if about["error"] is None else f", off by {about['error']:+.3f}"
    return f"noise rate of {arm}: {about['used']:.3f} ({about['source']}{between}{doubt}){error}"


def strength(arm: str, row: dict) -> str:
    """The K that was found while an arm was trained, in a line."""
    doubt = " by a graph in doubt" if row["graph"]["in_doubt"] else ""
    return f"K of {arm}: {row['weight']:.2f} at the end, found{doubt}"


def _name(method: str, arm: str, row: dict) -> str:
    """An arm's title; labels that could not be corrected are said to be as given."""
    doubt = not row.get("propagation", {}).get("used", True)
    return title(method, arm) + (" (in doubt: as given)" if doubt else "")


def below(summary: dict, held: int) -> str:
    """A line where the student is below one of its controls on `held` noisy labels, else ""."""
    own = summary["relation_guided"]
    method = method_title(own["settings"])
    arms = [row for row in summary["controls"].values() if "validation_accuracy" in row]
    best = max(arms, key=lambda row: row["validation_accuracy"], default=own)
    mine, theirs = (row.get("validation_accuracy", 0.0) for row in (own, best))
    if mine >= theirs or not held:  # rounds hold out labels of their own
        return ""
    chance = theirs - mine < 2 * (2 * theirs * (1 - theirs) / held) ** 0.5
    return (
        f"held out: {title(method, own['arm'])} has {100 * mine:.1f} % of {held} given labels, "
        f"below its control {title(method, best['arm'])} with {100 * theirs:.1f} %"
        + (", which may be chance" if chance else ": prefer the control")
    )


def untested(rows: dict[str, dict]) -> str:
    """What can be said without a test set."""
    column = "validation_accuracy"
    held = {name: row[column] for name, row in rows.items() if column in row}
    if not held:
        return "no test set, so nothing to measure by; hold out given labels: validation=0.1"
    width = max(map(len, held))
    lines = [f"{name:{width}}  {100 * value:6.2f}" for name, value in held.items()]
    return "\n".join(["accuracy on held-out given labels, which may be wrong, %", *lines])


def main(argv: list[str] | None = None) -> int:
    """The command `rmdnet report`."""
    parser = Parser(prog="rmdnet report", description=__doc__)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("table", help="runs over seeds", description=tables.__doc__)
    runs.add_argument("runs", nargs="+", help="workdirs of finished runs")
    columns = {"choices": [*COLUMNS], "default": "last", "help": "columns are never mixed"}
    runs.add_argument("--column", **columns)
    runs.add_argument("--best", action="store_true", help="of each arm, only its best settings")
    runs.add_argument("--csv", default="", help="a file for the same table as CSV")
    runs.add_argument("--figure", default="", help="a .png file for the same table as a figure")
    args = parser.parse_args(argv)
    rows = tables.rows(args.runs, args.column, args.best)
    lines = tables.compare(rows, args.column)
    if args.figure:
        figures.scores(rows, args.column, place(args.figure, "--figure"))
    if args.csv:
        tables.write_csv(lines, place(args.csv, "--csv"))
    print(tables.markdown(lines))
    return 0

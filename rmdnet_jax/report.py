"""What a person looks at: lines of text, tables, figures. Accuracies are shown in %, rates as in the config.

`python -m rmdnet_jax.report runs/a runs/b ...` makes one Markdown table of several runs: mean ± standard deviation over seeds, and
the paired gain of RMDNet over each control with its standard error. `--best` keeps the best settings of each arm, for a search.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import subprocess
from importlib import metadata

import jax
import numpy as np
from jax.sharding import Mesh

from rmdnet_jax import relation, workdir
from rmdnet_jax.data.sources import Source
from rmdnet_jax.types import Config, UserError

ARMS = {"base": "{}", "base_from_teacher": "{} from teacher", "teacher_knn": "teacher kNN, noisy labels",
        "teacher_probe": "teacher linear probe, noisy labels"}  # fmt: skip
COLUMNS = {"last": "last", "last10": "mean of last 10", "best": "best, peeks at test", "noisy_validation": "at best noisy validation"}


def describe(config: Config, source: Source, labels: dict) -> str:
    """The first lines of a run: its data and its noise."""
    n, shape = len(source.labels), "x".join(map(str, source.images.shape[1:]))
    rate = "unknown rate (labels as they are)" if labels["rate"] is None else f"{labels['rate']:.4f} of the labels are wrong"
    lines = [
        f"data   {source.name}: {n} training and {len(source.test_labels)} test images of {shape}, {len(source.names)} classes",
        f"noise  {config.noise.name}, seed {config.noise.seed}: {rate}, sha256 {labels['sha256'][:16]}",
    ]
    matrix = np.asarray(labels["transition"])
    if len(matrix) <= 20:
        lines += ["       share of each class (row) given each label (column), %"]
        lines += ["       " + " ".join(f"{100 * share:3.0f}" if share else "  ." for share in row) for row in matrix]
    return "\n".join(lines)


def environment(mesh: Mesh) -> dict:
    """Versions, devices and the source's git revision."""
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")}
    device = mesh.devices.flat[0]
    return {
        "python": platform.python_version(), **versions, "git": _revision(),
        "device": device.device_kind, "devices": mesh.size, "platform": device.platform,
        "processor": _processor(), "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }  # fmt: skip


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _revision() -> str | None:
    """The git revision of this source tree, marked where it has changes; None outside a checkout."""
    here = pathlib.Path(__file__).resolve().parent
    try:
        answer = subprocess.run(["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True)
    except OSError:
        return None
    return answer.stdout.strip() or None


def _title(guided: dict) -> str:
    """What a student is called: its base method, with RMDNet or as a control."""
    method = guided["method"]["name"]
    if guided["weight"]:
        return f"{method} + RMDNet"
    return ARMS["base_from_teacher" if guided["init"] == "teacher" else "base"].format(method)


def table(summary: dict, config: Config) -> str:
    """The accuracies of the result and its controls, one column each, and what else is worth a line."""
    method = config.relation_guided.method.name
    rows = {_title(config.relation_guided.to_dict()): summary["relation_guided"]}
    rows |= {ARMS[name].format(method): row for name, row in summary["controls"].items()}
    width = max(map(len, rows))
    lines = [f"{'test accuracy, %':{width}}  " + "  ".join(f"{c:>12}" for c in COLUMNS.values())]
    for name, row in rows.items():
        cells = [row["test_accuracy"].get(c) for c in COLUMNS]
        shown = ["–" if value is None else f"{100 * value:.2f}" for value in cells]
        lines.append(f"{name:{width}}  " + "  ".join(f"{cell:>{max(12, len(c))}}" for cell, c in zip(shown, COLUMNS.values())))
    if "knn_accuracy" in summary["relation_modeling"]:
        lines.append(f"teacher kNN with clean labels (an evaluation only): {100 * summary['relation_modeling']['knn_accuracy']:.2f} %")
    return "\n".join(lines)


def _figure(rows: int, columns: int, size: tuple[float, float]):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")


def _save(figure, path: pathlib.Path) -> None:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.png")
    figure.savefig(part, dpi=120)
    os.replace(part, path)
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
        axis.set(title=stage.removeprefix("controls/").replace("_", " "), xlabel="epoch", ylim=(0, 101))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("accuracy, %")
    axes[0][0].legend(loc="lower right")
    _save(figure, path)


def relations(features: dict[str, np.ndarray], labels: np.ndarray, temperature: float, path: pathlib.Path) -> None:
    """Relation matrices of one batch sorted by clean class, one panel a network; bright blocks on the diagonal are classes together."""
    if not features:
        return
    figure, axes = _figure(1, len(features), (4.0 * len(features), 4.0))
    bounds = np.flatnonzero(np.diff(labels)) + 0.5
    for axis, (name, feature) in zip(axes[0], features.items()):
        image = np.asarray(relation.matrix(jax.numpy.asarray(feature), temperature))
        axis.imshow(image, cmap="magma", vmin=0, vmax=np.quantile(image, 0.99), interpolation="nearest")
        axis.set(title=name.replace("_", " "), xticks=[], yticks=[])
        for bound in bounds:
            axis.axhline(bound, color="white", lw=0.3)
            axis.axvline(bound, color="white", lw=0.3)
    figure.suptitle(f"relations in one batch, sorted by class (temperature {temperature:g})", fontsize=10)
    _save(figure, path)


def _arms(config: dict, summary: dict, column: str) -> dict[str, float]:
    """The accuracy of a run's student and of each of its controls."""
    method = config["relation_guided"]["method"]["name"]
    rows = {_title(config["relation_guided"]): summary["relation_guided"]}
    rows |= {ARMS[name].format(method): row for name, row in summary["controls"].items()}
    values = {name: row["test_accuracy"].get(column) for name, row in rows.items()}
    return {name: 100 * value for name, value in values.items() if value is not None}


def _settings(configs: list[dict]) -> list[str]:
    """What tells each run's settings from the others', seeds, teacher and what an arm is by itself left out."""
    flat = [workdir.flatten(config) for config in configs]
    own = ("seed", "teacher", "noise.", "controls", "relation_guided.init", "relation_guided.method.name")
    names = [name for name in flat[0] if not name.startswith(own) and len({str(f.get(name)) for f in flat}) > 1]
    shown = [[f"{name.removeprefix('relation_guided.').removesuffix('.name')} {f.get(name)}" for name in names] for f in flat]
    started = [["from teacher"] if f["relation_guided.weight"] and f["relation_guided.init"] == "teacher" else [] for f in flat]
    return [", ".join(one + two) for one, two in zip(shown, started)]


def compare(directories: list[str], column: str = "last", best: bool = False) -> str:
    """One Markdown table of the runs in these directories; see the module's docstring. Raises `UserError` on a directory without a run."""
    try:
        runs = [[json.loads((pathlib.Path(d) / name).read_text()) for name in ("config.json", "summary.json")] for d in directories]
    except (OSError, ValueError) as error:
        raise UserError(f"not a finished run: {error}") from None
    groups: dict[tuple, dict[int, float]] = {}
    for (config, summary), settings in zip(runs, _settings([config for config, _ in runs])):
        noise = f"{config['noise']['name']} {config['noise'].get('rate', '')}".strip()
        for arm, value in _arms(config, summary, column).items():
            groups.setdefault((noise, arm, settings), {})[config["seed"]] = value
    if best:
        order = sorted(groups, key=lambda key: np.mean(list(groups[key].values())))
        groups = {key: groups[key] for key in {key[:2]: key for key in order}.values()}
    lines = [f"| noise | arm | settings | n | {COLUMNS[column]}, % | paired gain of RMDNet |", "|---|---|---|---|---|---|"]
    for (noise, arm, settings), values in sorted(groups.items()):
        ours = [v for (where, title, _), v in groups.items() if where == noise and title.endswith("+ RMDNet") and _beside(arm, title)]
        gain = _gain(ours[0], values) if len(ours) == 1 and not arm.endswith("+ RMDNet") else ""
        numbers = np.array(list(values.values()))
        spread = f" ± {numbers.std(ddof=1):.1f}" if len(numbers) > 1 else ""
        lines.append(f"| {noise} | {arm} | {settings} | {len(numbers)} | {numbers.mean():.1f}{spread} | {gain} |")
    return "\n".join(lines)


def _beside(control: str, title: str) -> bool:
    """Whether an arm is a control of the one with this title: of its method, or the teacher alone."""
    return control.split()[0] in ("teacher", title.split()[0])


def _gain(ours: dict[int, float], control: dict[int, float]) -> str:
    """Mean difference over the seeds that both have, with its standard error."""
    differences = np.array([ours[seed] - control[seed] for seed in ours.keys() & control.keys()])
    if len(differences) < 2:
        return ""
    return f"{differences.mean():+.1f} ± {differences.std(ddof=1) / len(differences) ** 0.5:.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="workdirs of finished runs")
    parser.add_argument("--column", choices=list(COLUMNS), default="last", help="the accuracy; columns are never mixed")
    parser.add_argument("--best", action="store_true", help="of each arm, only the settings of the highest mean")
    arguments = parser.parse_args()
    try:
        print(compare(arguments.runs, arguments.column, arguments.best))
    except UserError as error:
        parser.error(str(error))

"""Tables of several runs: mean ± standard deviation over seeds, and gains over controls.

Gains are paired by seed, ± standard error. A table holds one column of accuracies and one
protocol: runs that differ in data, or in how they count a noise rate, are refused.
"""

from __future__ import annotations

import collections
import csv
import json
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from rmdnet_jax.app.arms import TITLES, method_title, title
from rmdnet_jax.app.schema import flatten
from rmdnet_jax.errors import UserError
from rmdnet_jax.files import place, whole

COLUMNS = {
    "last": "last",
    "last10": "mean of last 10",
    "best": "best, peeks at test",
    "noisy_validation": "at best noisy validation",
    "validation": "held-out given labels",
}
# Their gains over the others are shown.
OURS = ("rmdnet", "propagation", "rmdnet_propagation", "rounds", "rmdnet_rounds")
CONTROLS = tuple(arm for arm in TITLES if arm not in OURS)
PROTOCOL = ("data.name", "data.limit", "data.image_size", "data.validation", "noise.inclusive")
METHOD, METHOD_NAME = "relation_guided.method.", "relation_guided.method.name"
# An arm's name says these already.
SAID = (METHOD_NAME, "relation_guided.targets", "relation_guided.init")


class Run(NamedTuple):
    """One arm of a finished run, as its workdir tells it."""

    config: dict  # flat, the run's
    arm: str
    settings: dict  # flat, those that the arm reads
    accuracy: float | None  # fraction
    doubt: bool  # what the graph told the arm, or would have, was in doubt


class Row(NamedTuple):
    """One arm with one choice of settings."""

    noise: str
    method: str
    arm: str
    settings: str
    values: dict[int, float]  # seed -> %
    doubts: set[int]  # seeds whose graph was in doubt: labels stayed as given, a rate was used


def read(directories: list[str], column: str) -> list[Run]:
    """The arms of the runs in these directories; raises `UserError` for what is not a run."""
    runs: list[Run] = []
    for directory in directories:
        try:
            files = [place(directory) / f"{name}.json" for name in ("config", "summary")]
            config, summary = (json.loads(path.read_text()) for path in files)
            config = flatten(config)
            if lost := sorted({"noise.name", "seed"} - config.keys()):
                raise KeyError(lost[0])
            own = summary["relation_guided"]
            if accuracy(own, column) is None:
                there = [name for name in COLUMNS if accuracy(own, name) is not None]
                raise UserError(
                    f"--column: {directory} has no {column!r} accuracy, and another column does "
                    f"not stand in for it; it has {', '.join(there) or 'none'}"
                )
            runs += [_arm(config, row, column) for row in (own, *summary["controls"].values())]
        except UserError:
            raise
        except (OSError, ValueError) as error:
            raise UserError(f"not a finished run: {error}") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"not a run of this version: {directory} has no {error}") from None
        _same_protocol(runs, directory)
    return runs


def accuracy(row: dict, column: str) -> float | None:
    """An arm's accuracy of a column: on the test set, or on held-out given labels."""
    if column == "validation":
        return row.get("validation_accuracy")
    return row["test_accuracy"].get(column)


def _arm(config: dict, row: dict, column: str) -> Run:
    doubt = not row.get("propagation", {}).get("used", True)
    doubt = doubt or row.get("noise_rate", {}).get("in_doubt", False)
    return Run(config, row["arm"], row["settings"], accuracy(row, column), doubt)


def _same_protocol(runs: list[Run], directory: str) -> None:
    """Raises `UserError` unless the newest run is of the protocol of those before."""
    config = runs[-1].config
    for field in PROTOCOL:
        noise = field.startswith("noise.")
        alike = [r for r in runs if not noise or r.config["noise.name"] == config["noise.name"]]
        one, two = alike[0].config.get(field), config.get(field)
        if one != two:
            raise UserError(
                f"runs of one protocol belong in a table: {field} is {one} in an earlier one, "
                f"{two} in {directory}"
            )


def _varied(tables: list[tuple[str, dict]]) -> set[str]:
    """The fields in which settings differ; those of a kind only where settings of one kind do."""
    values: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
    for kind, fields in tables:
        for name, value in fields.items():
            values[name, kind if name.startswith((METHOD, "noise.")) else ""].add(str(value))
    return {name for (name, _), found in values.items() if len(found) > 1}


def group(runs: list[Run]) -> list[Row]:
    """The runs' arms, seeds together. Settings are those read fields in which runs differ."""
    fields = _varied([(str(r.settings.get(METHOD_NAME)), r.settings) for r in runs]) - set(SAID)
    kinds = [(str(r.config["noise.name"]), _noise(r.config)) for r in runs]
    noises = _varied(kinds) - {"noise.name", "noise.rate", "noise.seed"}
    rows: dict[tuple, Row] = {}
    for run in runs:
        if run.accuracy is None:
            continue
        method = method_title(run.settings)
        key = (_noise_name(run.config, noises), method, run.arm, _settings(run, fields))
        row = rows.setdefault(key, Row(*key, {}, set()))
        seed, value = int(run.config["seed"]), 100 * run.accuracy
        row.doubts.update({seed} if run.doubt else ())
        if row.values.setdefault(seed, value) != value:
            where = ", ".join(filter(None, (row.noise, title(method, run.arm), row.settings)))
            raise UserError(
                f"two runs of seed {seed} are both {where}, with {row.values[seed]:.2f} and "
                f"{value:.2f} %: which one?"
            )
    return sorted(rows.values(), key=lambda r: (r.noise, r.method, r.arm, natural(r.settings)))


def _noise(config: dict) -> dict:
    return {name: value for name, value in config.items() if name.startswith("noise.")}


def _noise_name(config: dict, fields: set[str]) -> str:
    """A noise in words: its kind, its rate, and what else differs between runs."""
    rate = [str(config["noise.rate"])] if "noise.rate" in config else []
    own = [f"{name.removeprefix('noise.')} {config[name]}" for name in fields if name in config]
    return " ".join([str(config["noise.name"]), *rate, *sorted(own)])


def _settings(run: Run, fields: set[str]) -> str:
    """The settings of an arm in words."""
    names = [name for name in run.settings if name in fields]
    texts = [name.removeprefix("relation_guided.").removesuffix(".name") for name in names]
    parts = [f"{text} {_text(run.settings[name])}" for text, name in zip(texts, names)]
    started = run.arm in OURS and run.settings.get("relation_guided.init") == "teacher"
    return ", ".join([*parts, *(["from teacher"] if started else [])])


def _text(value: Any) -> str:
    """A setting's value; a comma would end the setting."""
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def natural(text: str) -> list:
    """A key to sort by under which numbers within texts are in their order: 3 before 10."""
    parts = re.split(r"(\d+\.?\d*)", text)
    return [float(part) if place % 2 else part for place, part in enumerate(parts)]


def gains(row: Row, rows: list[Row]) -> dict[str, str]:
    """The paired gain of one of OURS over each control of its method.

    Over the control of the same settings, or else over the only one that there is.
    """
    found = {}
    for arm in CONTROLS if row.arm in OURS else ():
        here = [r for r in rows if (r.noise, r.arm) == (row.noise, arm)]
        controls = [r for r in here if r.method in ("", row.method)]
        own = {"", *row.settings.split(", ")}
        same = [r for r in controls if set(r.settings.split(", ")) <= own]
        chosen = same if len(controls) > 1 else controls
        if len(chosen) == 1:
            gain = difference(row.values, chosen[0].values)
            found[arm] = f"{gain}, other settings" if gain and not same else gain
    return found


def difference(ours: dict[int, float], control: dict[int, float]) -> str:
    """Mean difference over the seeds that both have, with its standard error."""
    pairs = np.array([ours[seed] - control[seed] for seed in ours.keys() & control.keys()])
    if len(pairs) < 2:
        return ""
    return f"{pairs.mean():+.1f} ± {pairs.std(ddof=1) / len(pairs) ** 0.5:.1f}"


def highest(rows: list[Row]) -> list[Row]:
    """Of each arm, the settings of the highest mean."""
    order = sorted(rows, key=lambda row: np.mean(list(row.values.values())))
    kept = {row[:3]: row for row in order}
    return [row for row in rows if kept[row[:3]] is row]


def shared(rows: list[Row]) -> list[str]:
    """The settings that more than half of the rows have: said once, in the heading."""
    counts = collections.Counter(part for row in rows for part in row.settings.split(", ") if part)
    return [part for part, count in counts.items() if count > len(rows) / 2]


def rows(directories: list[str], column: str = "last", best: bool = False) -> list[Row]:
    """The rows of the runs in these directories; `best` keeps each arm's best settings."""
    found = group(read(directories, column))
    return highest(found) if best else found


def labels(rows: list[Row]) -> tuple[list[str], list[str]]:
    """The settings of each row that most rows do not share, and those that they do."""
    most = shared(rows)
    own = [[part for part in row.settings.split(", ") if part not in most] for row in rows]
    return [", ".join(parts) for parts in own], most


def compare(rows: list[Row], column: str = "last") -> list[dict[str, str]]:
    """A table's lines, {heading: cell}, of rows whose values are of that column."""
    all_gains = [gains(row, rows) for row in rows]
    shown = [arm for arm in CONTROLS if any(arm in found for found in all_gains)]
    settings, most = labels(rows)
    heading, lines = f"settings, else {', '.join(most)}" if most else "settings", []
    for row, own, found in zip(rows, settings, all_gains):
        numbers = np.array(list(row.values.values()))
        spread = f" ± {numbers.std(ddof=1):.1f}" if len(numbers) > 1 else ""
        n = f"{len(numbers)}, {len(row.doubts)} in doubt" if row.doubts else str(len(numbers))
        cells = {"noise": row.noise, "arm": title(row.method, row.arm), heading: own, "n": n}
        cells |= {f"{COLUMNS[column]}, %": f"{numbers.mean():.1f}{spread}"}
        cells |= {f"gain over {TITLES[arm].format('base')}": found.get(arm, "") for arm in shown}
        lines.append(cells)
    return lines


def markdown(lines: list[dict[str, str]]) -> str:
    """The table in Markdown."""
    heads = [*lines[0]]
    body = [f"| {' | '.join(line.values())} |" for line in lines]
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *body])


def write_csv(lines: list[dict[str, str]], path: pathlib.Path) -> None:
    """The table as a CSV file; raises `UserError` where it cannot be written."""
    with whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*lines[0]])
        writer.writeheader()
        writer.writerows(lines)

"""Tables of several runs: mean ± standard deviation over seeds, and RMDNet's gains over its controls, paired by seed, ± standard error.

A table holds one column of accuracies and one protocol: runs that differ in data, or in how they count a noise rate, are refused.
"""

from __future__ import annotations

import collections
import csv
import json
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from rmdnet_jax import files
from rmdnet_jax.errors import UserError

ARMS = {"base": "{}", "base_from_teacher": "{} from teacher", "teacher_knn": "teacher kNN, noisy labels",
        "teacher_probe": "teacher linear probe, noisy labels"}  # fmt: skip
OURS = {
    "rmdnet": "{} + RMDNet",
    "propagation": "{} + propagation",
    "rmdnet_propagation": "{} + RMDNet + propagation",
}
COLUMNS = {
    "last": "last",
    "last10": "mean of last 10",
    "best": "best, peeks at test",
    "noisy_validation": "at best noisy validation",
}
PROTOCOL = ("data.name", "data.limit", "data.image_size", "data.validation", "noise.inclusive")
# Fields that an arm is by itself, or in which seeds differ by design; those that only the relation terms, the graph, or a teacher read.
APART = ("seed", "teacher", "noise.name", "noise.rate", "noise.seed", "controls", "checkpoint_steps", "tensorboard",
         "relation_guided.init", "relation_guided.method.name", "relation_guided.targets")  # fmt: skip
RELATIONS = tuple(
    f"relation_guided.{name}"
    for name in ("weight", "edge.", "node.", "warmup_epochs", "teacher_features")
)
GRAPH = ("relation_guided.propagation.",)
TEACHER = ("relation_modeling.", "encoder.", "data.")
OWN = {
    "noise.": "noise.name",
    "relation_guided.method.": "relation_guided.method.name",
}  # fields of a kind, and what tells the kind
UNREAD = {"base": ("relation_modeling.", *RELATIONS, *GRAPH), "base_from_teacher": (*RELATIONS, *GRAPH), "rmdnet": GRAPH,
          "propagation": RELATIONS}  # fmt: skip


class Run(NamedTuple):
    """A finished run as its workdir tells it."""

    config: dict  # flat: {"relation_guided.weight": 30.0}
    accuracy: dict[str, float | None]  # fraction, of the student and of each control, by arm
    doubt: bool  # the student learnt given labels because the graph was in doubt


class Row(NamedTuple):
    """One arm with one choice of settings."""

    noise: str
    method: str
    arm: str  # of OURS or ARMS
    settings: str
    values: dict[int, float]  # seed -> %
    doubts: set[int]  # seeds whose graph was in doubt, so that they are the arm without propagation


def name_of(method: str, arm: str) -> str:
    """What an arm of a method is called."""
    return (OURS | ARMS)[arm].format(method)


def arm_of(guided: dict) -> str:
    """The arm that a run's own student is."""
    if guided.get("targets") == "propagated":
        return "rmdnet_propagation" if guided["weight"] else "propagation"
    return (
        "rmdnet"
        if guided["weight"]
        else "base_from_teacher"
        if guided["init"] == "teacher"
        else "base"
    )


def read(directories: list[str], column: str) -> list[Run]:
    """The runs in these directories; raises `UserError` on one without a run or without that column, and on a second protocol."""
    runs = []
    for directory in directories:
        try:
            config, summary = (
                json.loads((pathlib.Path(directory) / f"{name}.json").read_text())
                for name in ("config", "summary")
            )
            rows = {
                arm_of(config["relation_guided"]): summary["relation_guided"],
                **summary["controls"],
            }
            accuracy = {arm: row["test_accuracy"].get(column) for arm, row in rows.items()}
        except (OSError, ValueError) as error:
            raise UserError(f"not a finished run: {error}") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"not a run of this version: {directory} has no {error}") from None
        if next(iter(accuracy.values())) is None:
            raise UserError(
                f"--column: {directory} has no {column!r} accuracy, and another column does not stand in for it"
            )
        used = summary["relation_guided"].get("propagation", {}).get("used", True)
        runs.append(Run(files.flatten(config), accuracy, not used))
        for field in PROTOCOL:
            alike = [
                run
                for run in runs
                if not field.startswith("noise.")
                or run.config["noise.name"] == config["noise"]["name"]
            ]
            one, two = (run.config.get(field) for run in (alike[0], alike[-1]))
            if one != two:
                raise UserError(
                    f"runs of one protocol belong in a table: {field} is {one} in an earlier one, {two} in {directory}"
                )
    return runs


def varied(runs: list[Run]) -> list[str]:
    """The fields in which runs differ. One of a method or of a noise kind is one where runs of that kind differ: else its name says it."""
    values: dict[str, dict[str, set[str]]] = {}
    for config, *_ in runs:
        for name in (name for name in config if not name.startswith(APART)):
            kind = next(
                (str(config[field]) for prefix, field in OWN.items() if name.startswith(prefix)), ""
            )
            values.setdefault(name, {}).setdefault(kind, set()).add(str(config[name]))
    return [
        name
        for name, by_kind in values.items()
        if any(len(found) > 1 for found in by_kind.values())
    ]


def reads(arm: str, field: str) -> bool:
    """Whether a setting makes a difference to an arm."""
    return (
        field.startswith(TEACHER)
        if arm.startswith("teacher_")
        else not field.startswith(("noise.", *UNREAD.get(arm, ())))
    )


def group(runs: list[Run]) -> list[Row]:
    """The runs' arms, seeds together. Settings are the fields in which runs differ and that the arm reads."""
    fields = varied(runs)
    rows: dict[tuple, Row] = {}
    for config, accuracy, doubt in runs:
        seed, method = int(config["seed"]), str(config["relation_guided.method.name"])
        own = [
            f"{name.removeprefix('noise.')} {config[name]}"
            for name in fields
            if name.startswith("noise.") and name in config
        ]
        noise = " ".join(
            [
                str(config["noise.name"]),
                *([str(config["noise.rate"])] if "noise.rate" in config else []),
                *own,
            ]
        )
        for arm, value in accuracy.items():
            names = [name for name in fields if name in config and reads(arm, name)]
            parts = [
                f"{name.removeprefix('relation_guided.').removesuffix('.name')} {value_of(config[name])}"
                for name in names
            ]
            parts += (
                ["from teacher"]
                if arm in OURS and config["relation_guided.init"] == "teacher"
                else []
            )
            key = (noise, "" if arm.startswith("teacher_") else method, arm, ", ".join(parts))
            if value is not None:
                row = rows.setdefault(key, Row(*key, {}, set()))
                row.doubts.update({seed} if doubt and arm in OURS else ())
                values = row.values
                if values.setdefault(seed, 100 * value) != 100 * value:
                    where = ", ".join(filter(None, (noise, name_of(row.method, arm), row.settings)))
                    raise UserError(
                        f"two runs of seed {seed} are both {where}, with {values[seed]:.2f} and {100 * value:.2f} %: which one?"
                    )
    return sorted(
        rows.values(), key=lambda row: (row.noise, row.method, row.arm, natural(row.settings))
    )


def value_of(value: Any) -> str:
    """A setting's value as text; a comma would end the setting."""
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def natural(text: str) -> list:
    """A key to sort by under which numbers within texts are in their order: 3 before 10."""
    return [
        float(part) if place % 2 else part
        for place, part in enumerate(re.split(r"(\d+\.?\d*)", text))
    ]


def gains(row: Row, rows: list[Row]) -> dict[str, str]:
    """The paired gain of one of OURS over each control of its method: over the one of the same settings, or else the only one there is."""
    found = {}
    for arm in ARMS if row.arm in OURS else ():
        controls = [
            r for r in rows if (r.noise, r.arm) == (row.noise, arm) and r.method in ("", row.method)
        ]
        same = [
            r for r in controls if set(r.settings.split(", ")) <= {"", *row.settings.split(", ")}
        ]
        chosen = same if len(controls) > 1 else controls
        if len(chosen) == 1:
            gain = difference(row.values, chosen[0].values)
            found[arm] = f"{gain}, other settings" if gain and not same else gain
    return found


def difference(ours: dict[int, float], control: dict[int, float]) -> str:
    """Mean difference over the seeds that both have, with its standard error."""
    pairs = np.array([ours[seed] - control[seed] for seed in ours.keys() & control.keys()])
    return (
        f"{pairs.mean():+.1f} ± {pairs.std(ddof=1) / len(pairs) ** 0.5:.1f}"
        if len(pairs) > 1
        else ""
    )


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
    """The rows of the runs in these directories; `best` keeps each arm's best settings, for a search."""
    found = group(read(directories, column))
    return highest(found) if best else found


def labels(rows: list[Row]) -> tuple[list[str], list[str]]:
    """The settings of each row that most rows do not share, and those that they do."""
    most = shared(rows)
    return [
        ", ".join(part for part in row.settings.split(", ") if part not in most) for row in rows
    ], most


def compare(rows: list[Row], column: str = "last") -> list[dict[str, str]]:
    """A table's lines, {heading: cell}, of rows whose values are of that column."""
    all_gains = [gains(row, rows) for row in rows]
    shown = [arm for arm in ARMS if any(arm in found for found in all_gains)]
    settings, most = labels(rows)
    heading, lines = f"settings, else {', '.join(most)}" if most else "settings", []
    for row, own, found in zip(rows, settings, all_gains):
        numbers = np.array(list(row.values.values()))
        spread = f" ± {numbers.std(ddof=1):.1f}" if len(numbers) > 1 else ""
        n = f"{len(numbers)}, {len(row.doubts)} in doubt" if row.doubts else str(len(numbers))
        cells = {"noise": row.noise, "arm": name_of(row.method, row.arm), heading: own, "n": n}
        cells |= {f"{COLUMNS[column]}, %": f"{numbers.mean():.1f}{spread}"}
        lines.append(
            cells | {f"gain over {ARMS[arm].format('base')}": found.get(arm, "") for arm in shown}
        )
    return lines


def markdown(lines: list[dict[str, str]]) -> str:
    """The table in Markdown."""
    heads = [*lines[0]]
    return "\n".join(
        [
            f"| {' | '.join(heads)} |",
            "|---" * len(heads) + "|",
            *(f"| {' | '.join(line.values())} |" for line in lines),
        ]
    )


def write_csv(lines: list[dict[str, str]], path: str) -> None:
    """The table as a CSV file; raises `UserError` where it cannot be written."""
    try:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, [*lines[0]])
            writer.writeheader()
            writer.writerows(lines)
    except OSError as error:
        raise UserError(f"--csv {path!r} cannot be written: {error.strerror}") from None

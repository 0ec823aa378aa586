"""A table: how far what propagation chooses is from the best in hindsight.

It chooses settings without clean labels, and leaves `mix` at 1.

python -m benchmarks.propagation_choice runs/propagation/teacher/{0,1,2}
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.propagation_figures import CLASSES, given_labels, teacher_of
from rmdnet_jax.app import tables
from rmdnet_jax.relations import propagation

NOISES = {
    "none": (0.0,),
    "symmetric": (0.2, 0.5, 0.8),
    "pair": (0.2, 0.4),
    "asymmetric": (0.4,),
    "instance": (0.2, 0.4),
}
MIXES = (0.0, 0.25, 0.5, 0.75)  # beside 1, all else chosen


def right(features: np.ndarray, given: np.ndarray, clean: np.ndarray, **settings: Any) -> float:
    """The share in % of labels that are right after propagation."""
    return 100 * float(
        np.mean(
            propagation.propagate(features, given, CLASSES, **settings).targets.argmax(1) == clean
        )
    )


def line(name: str, cases: list[dict[str, float]]) -> dict[str, str]:
    """One row of the table: the means over teachers, and how far `auto` is below the best."""
    cells = {column: f"{np.mean([case[column] for case in cases]):.1f}" for column in cases[0]}
    gaps = [case["best in hindsight"] - case["auto"] for case in cases]
    return {
        "noise": name,
        **cells,
        "auto below best: mean (largest)": f"{np.mean(gaps):.1f} ({max(gaps):.1f})",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("teachers", nargs="+", help="workdirs of digits runs")
    args = parser.parse_args()
    teachers = [teacher_of(path) for path in args.teachers]
    grid = [
        dict(zip(propagation.AUTO, point))
        for point in propagation.settings("auto", "auto", "auto", 1000)
    ]
    cases: dict[str, list[dict[str, float]]] = {}
    noises = [(kind, rate) for kind, rates in NOISES.items() for rate in rates]
    for (kind, rate), seed in tqdm(
        list(itertools.product(noises, range(len(teachers)))), unit="case"
    ):
        made, features, _ = teachers[seed]
        clean = made.source.labels
        given = given_labels(kind, rate, clean, made.source.images, seed)
        found = [right(features, given, clean, **point) for point in grid]
        case = {
            "right before": 100 * float(np.mean(given == clean)),
            "auto": right(features, given, clean),
        }
        case |= {"best in hindsight": max(found), "worst": min(found)}
        case |= {f"auto, mix {mix:g}": right(features, given, clean, mix=mix) for mix in MIXES}
        cases.setdefault(kind if kind == "none" else f"{kind} {100 * rate:g} %", []).append(case)
    print(tables.markdown([line(name, rows) for name, rows in cases.items()]))


if __name__ == "__main__":
    main()

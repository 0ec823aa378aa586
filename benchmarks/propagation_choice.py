"""How far the settings that propagation chooses without clean labels are from the best in hindsight, of digits teachers, as a table.

python -m benchmarks.propagation_choice runs/propagation/teacher/{0,1,2}
"""

from __future__ import annotations

import argparse

import numpy as np
from tqdm import tqdm

from benchmarks.propagation_figures import CLASSES, given_labels, teacher_of
from rmdnet_jax import propagation

NOISES = {"none": (0.0,), "symmetric": (0.2, 0.5, 0.8), "pair": (0.2, 0.4), "asymmetric": (0.4,), "instance": (0.2, 0.4)}


def right(features: np.ndarray, given: np.ndarray, clean: np.ndarray, **settings: str) -> float:
    """The share in % of labels that are right after propagation."""
    return 100 * float(np.mean(propagation.propagate(features, given, CLASSES, **settings).target.argmax(1) == clean))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teachers", nargs="+", help="workdirs of digits runs")
    args = parser.parse_args()
    teachers = [teacher_of(path) for path in args.teachers]
    grid = [dict(zip(propagation.AUTO, map(str, point))) for point in propagation.settings("auto", "auto", "auto", 1000)]
    print("| noise | right before | auto | best in hindsight | worst | auto below best: mean (largest) |\n|---|---|---|---|---|---|")
    for kind, rate in ((kind, rate) for kind, rates in NOISES.items() for rate in rates):
        rows = []
        for seed, (made, features, _) in enumerate(tqdm(teachers, desc=f"{kind} {rate:g}", leave=False)):
            clean = made.source.labels
            given = given_labels(kind, rate, clean, made.source.images, seed)
            found = [right(features, given, clean, **point) for point in grid]
            rows.append((100 * np.mean(given == clean), right(features, given, clean), max(found), min(found)))
        before, auto, best, worst = np.mean(rows, axis=0)
        gaps = [row[2] - row[1] for row in rows]
        name = kind if kind == "none" else f"{kind} {100 * rate:g} %"
        print(f"| {name} | {before:.1f} | {auto:.1f} | {best:.1f} | {worst:.1f} | {np.mean(gaps):.1f} ({max(gaps):.1f}) |", flush=True)


if __name__ == "__main__":
    main()

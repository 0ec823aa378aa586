"""What label correction does to right labels, cell by cell: it must never harm.

    python -m benchmarks.harm --folder FOLDER --out harm --seeds 0 1 2

Writes `harm.json` and `harm.md`, a row a cell. `--large` adds 5,000 and 50,000 images. Constants
were chosen on seed 0; the other seeds are a test. See `benchmarks.cells` for what FOLDER may hold.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time

import numpy as np

from benchmarks.cells import Cell, cells
from rmdnet_jax.errors import UserError
from rmdnet_jax.relations.propagation import propagate

BINS = 10


def measured(cell: Cell) -> dict:
    """What `propagate` does to one cell."""
    clean, given = cell.data.clean, cell.given
    began, wrong = time.perf_counter(), given != clean
    row = {"data": cell.data.name, "noise": cell.noise, "seed": cell.seed, "n": len(given)}
    row["before"] = float(np.mean(~wrong))
    try:
        found = propagate(cell.data.features, given, int(clean.max()) + 1, cell.seed)
    except UserError as error:
        return row | {"after": row["before"], "refused": str(error)}
    right = found.belief[np.arange(len(given)), given]
    seen = found.summary
    return row | {
        "after": float(np.mean(found.targets.argmax(1) == clean)),
        "verdict": "in doubt" if seen["in_doubt"] else seen["noise"],
        "flagged": float(np.mean(found.targets.argmax(1) != given)),
        "ece": calibration_error(right, ~wrong),
        "auroc": auroc(right, wrong),
        "rate": seen["noise_rate"],
        "low": seen["noise_low"],
        "high": seen["noise_high"],
        "seconds": time.perf_counter() - began,
        "summary": seen,
    }


def calibration_error(probability: np.ndarray, right: np.ndarray) -> float:
    """Mean gap between the probability that labels are right and how many are, in ten bins."""
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    gap = np.bincount(place, right - probability, minlength=BINS)
    return float(np.abs(gap).sum() / len(right))


def auroc(score: np.ndarray, wrong: np.ndarray) -> float | None:
    """How well a low score finds wrong labels; None where all are right or all wrong."""
    from sklearn.metrics import roc_auc_score

    return None if len(np.unique(wrong)) < 2 else float(roc_auc_score(wrong, -score))


def markdown(rows: list[dict]) -> str:
    """A table of all cells."""
    head = "| data | noise | seed | right, % | verdict | ECE | noise rate, % (interval) | true, % |"
    lines = [head, "|" + "---|" * 8]
    for row in rows:
        cells = [row["data"], row["noise"], str(row["seed"])]
        cells.append(f"{100 * row['before']:.1f} → {100 * row['after']:.1f}")
        if "refused" in row:
            cells += ["refused", "", "", ""]
        else:
            low, high = 100 * row["low"], 100 * row["high"]
            cells += [row["verdict"], f"{row['ece']:.3f}"]
            cells.append(f"{100 * row['rate']:.1f} ({low:.1f} to {high:.1f})")
            cells.append(f"{100 - 100 * row['before']:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *summary(rows)]) + "\n"


def summary(rows: list[dict]) -> list[str]:
    """What all cells say together."""
    known = [row for row in rows if "refused" not in row]
    lost = [row["before"] - row["after"] for row in known]
    clean = [row["before"] - row["after"] for row in known if row["noise"] == "none"]
    covered = np.mean([row["low"] <= 1 - row["before"] <= row["high"] for row in known])
    proved = [row["ece"] for row in known if row["verdict"] != "in doubt"]
    return [
        f"- {len(known)} cells; the largest loss of right labels is {100 * max(lost):.1f} points",
        f"- clean labels lose at most {100 * max(clean, default=0):.1f} points",
        f"- the interval covers the true rate in {100 * covered:.0f} % of the cells",
        f"- ECE where nothing is in doubt: {np.mean(proved):.3f} mean, {max(proved):.3f} largest",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=pathlib.Path, help="of data; without it, digits and toys")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("harm"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", default="", help="data sets whose name holds this text")
    parser.add_argument("--large", action="store_true", help="5,000 and 50,000 images, too")
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        for cell in cells(args.folder, seed, args.large, args.only):
            rows.append(row := measured(cell))
            print(row["data"], row["noise"], seed, f"{row['before']:.3f} -> {row['after']:.3f}")
            args.out.with_suffix(".json").write_text(json.dumps(rows, indent=1))
    args.out.with_suffix(".md").write_text(markdown(rows))


if __name__ == "__main__":
    main()

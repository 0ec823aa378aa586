"""What label correction does to right labels, cell by cell: it must never harm.

    python -m benchmarks.harm --folder FOLDER --out harm --seeds 0 1 2

Writes `harm.json`, `harm.md`, a row a cell, and the reliability diagram `harm.png`. `--large` adds
5,000 and 50,000 images. Constants were chosen on seeds 0 to 3; other seeds are a test.
See `benchmarks.cells` for what FOLDER may hold.
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
        "bins": bins(right, ~wrong),
        "auroc": auroc(right, wrong),
        "rate": seen["noise_rate"],
        "low": seen["noise_low"],
        "high": seen["noise_high"],
        "seconds": time.perf_counter() - began,
        "summary": seen,
    }


def bins(probability: np.ndarray, right: np.ndarray) -> list[list[float]]:
    """Of ten bins of the probability that labels are right: sum of it, how many are, and labels."""
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    parts = (np.bincount(place, x, BINS) for x in (probability, right, np.ones(len(right))))
    return [part.tolist() for part in parts]


def calibration_error(probability: np.ndarray, right: np.ndarray) -> float:
    """Mean gap between the probability that labels are right and how many are."""
    told, true, count = np.array(bins(probability, right))
    return float(np.abs(true - told).sum() / count.sum())


def figure(rows: list[dict], path: pathlib.Path) -> None:
    """Reliability: how many labels are right against the probability that they are, by data."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    colors = colormaps["tab20"]
    drawn = Figure(figsize=(6.8, 4.6), layout="constrained")
    rows = [row | {"set": row["data"].rstrip("_ 0123456789")} for row in rows]
    names = list(dict.fromkeys(row["set"] for row in rows))
    kinds = {"proved, or clean": False, "in doubt": True}
    for axes, (title, doubted) in zip(drawn.subplots(1, 2, sharey=True), kinds.items()):
        part = [row for row in rows if (row["verdict"] == "in doubt") == doubted]
        for name, group in _groups(part, "set"):
            told, true, count = np.sum([row["bins"] for row in group], axis=0)
            seen, color = count >= 50, colors(names.index(name))
            x, y = told[seen] / count[seen], true[seen] / count[seen]
            axes.plot(x, y, "o-", color=color, ms=3, lw=1, label=name)
        axes.plot([0, 1], [0, 1], "k:", lw=0.8)
        axes.set(title=title, xlabel="probability of a right label", xlim=(0, 1))
        axes.grid(alpha=0.3)
    drawn.legend(*drawn.axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    drawn.axes[0].set(ylabel="share that is right", ylim=(0, 1))
    drawn.savefig(path, dpi=110)


def auroc(score: np.ndarray, wrong: np.ndarray) -> float | None:
    """How well a low score finds wrong labels; None where all are right or all wrong."""
    from sklearn.metrics import roc_auc_score

    return None if len(np.unique(wrong)) < 2 else float(roc_auc_score(wrong, -score))


def markdown(rows: list[dict]) -> str:
    """What all cells say together, a table of data sets, and one of all cells."""
    known = [row for row in rows if "refused" not in row]
    seeds = sorted({row["seed"] for row in known})
    return "\n".join(
        [
            *summary(known),
            "",
            "Right: the share of labels that are right, in %. ECE: of the probability that a",
            "given label is right, in ten bins. d: in doubt, so labels stay as given.",
            "",
            *_table(
                ["data", "cells", "in doubt", "right before", "after", "largest loss",
                 "ECE where proved: mean, largest", "interval covers"],
                [[name, *_of_data(part)] for name, part in _groups(known, "data")],
            ),
            "",
            *_table(
                ["data", "noise", *(f"right, seed {seed}" for seed in seeds), "ECE, mean"],
                [[*_of_case(part, seeds)] for _, part in _groups(known, "data", "noise")],
            ),
        ]
    ) + "\n"  # fmt: skip


def _groups(rows: list[dict], *names: str) -> list[tuple[str, list[dict]]]:
    """Rows by what they share, in the order in which they first came."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return [(key[0], part) for key, part in groups.items()]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [" | ".join(cells) for cells in (head, ["---"] * len(head), *rows)]
    return [f"| {line} |" for line in lines]


def _of_data(rows: list[dict]) -> list[str]:
    before, after = (100 * np.array([row[at] for row in rows]) for at in ("before", "after"))
    proved = [row["ece"] for row in rows if row["verdict"] != "in doubt"]
    return [
        str(len(rows)),
        str(len(rows) - len(proved)),
        f"{before.mean():.1f}",
        f"{after.mean():.1f}",
        f"{max(before - after):.1f}",
        f"{np.mean(proved):.3f}, {max(proved):.3f}" if proved else "–",
        f"{sum(map(_covers, rows))} of {len(rows)}",
    ]


def _of_case(rows: list[dict], seeds: list[int]) -> list[str]:
    by_seed = {row["seed"]: row for row in rows}
    cells = [
        f"{100 * row['before']:.1f} → {100 * row['after']:.1f}"
        f"{' d' if row['verdict'] == 'in doubt' else ''}"
        if (row := by_seed.get(seed))
        else "–"
        for seed in seeds
    ]
    mean = np.mean([row["ece"] for row in rows])
    return [rows[0]["data"], rows[0]["noise"], *cells, f"{mean:.3f}"]


def _covers(row: dict) -> bool:
    """Whether the interval of the noise rate holds the true one."""
    return row["low"] <= 1 - row["before"] <= row["high"]


def summary(rows: list[dict]) -> list[str]:
    """What all cells say together."""
    lost = [row["before"] - row["after"] for row in rows]
    clean = [row["before"] - row["after"] for row in rows if row["noise"] == "none"]
    proved = [row["ece"] for row in rows if row["verdict"] != "in doubt"]
    worse = [f"{row['data']}, {row['noise']}, seed {row['seed']}"
             for row, loss in zip(rows, lost) if loss > 0.01]  # fmt: skip
    return [
        f"- {len(rows)} cells, {len(rows) - len(proved)} in doubt",
        f"- more than one point of right labels is lost in {len(worse)}: {'; '.join(worse)}",
        f"- the largest loss is {100 * max(lost):.1f} points",
        f"- clean labels lose at most {100 * max(clean, default=0):.1f} points",
        f"- the interval covers the true rate in {sum(map(_covers, rows))} of {len(rows)}",
        f"- ECE where nothing is in doubt: {np.mean(proved):.3f} mean, {max(proved):.3f} largest;"
        f" below 0.05 in {sum(one < 0.05 for one in proved)} of {len(proved)}",
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
    figure([row for row in rows if "bins" in row], args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()

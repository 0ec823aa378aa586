"""Which labels are wrong: our ranking beside cleanlab's, on the same data.

    python -m benchmarks.cleanlab --folder FOLDER --out ranking --seeds 0 1 2 3 4

Writes `ranking.json` and `ranking.md`, a row a cell: the area under the ROC curve for wrong labels,
and the precision at the true rate. cleanlab's are the best of its three label quality scores on
five-fold logistic regression and on the shares of ten neighbours. `pip install cleanlab`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
from collections.abc import Iterator

import numpy as np

from benchmarks.cells import HUMAN, NOISES, Cell, Data, cells, digit_sets, noisy, unit
from benchmarks.harm import auroc
from rmdnet_jax.labels.audit import find_label_errors

GOALS = (  # of cells, our AUROC less the best of cleanlab's, which cells
    ("all", -0.005, lambda row: True),
    ("35 % wrong and more", 0.01, lambda row: row["rate"] >= 0.35),
    ("sym80 and pair40", 0.05, lambda row: row["noise"] in ("sym80", "pair40")),
)
METHODS = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")


def probabilities(features: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Out-of-sample probabilities of logistic regression in five folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, C=0.1))
    return cross_val_predict(model, features, given, cv=5, method="predict_proba")


def neighbours(features: np.ndarray, given: np.ndarray, k: int = 10) -> np.ndarray:
    """Class shares among the k nearest others by cosine: what Datalab does with features alone."""
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=k + 1, metric="cosine").fit(features)
    index = near.kneighbors(features, return_distance=False)
    others = index[:, 1:]
    return np.eye(given.max() + 1)[given][others].mean(1)


def theirs(given: np.ndarray, told: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Label quality [n] by each of cleanlab's scores on each table of probabilities."""
    from cleanlab.rank import get_label_quality_scores

    found = {}
    for source, method in itertools.product(told, METHODS):
        for adjusted in (False, True)[: 1 + (method in METHODS[:2])]:
            name = f"{source}, {method}{', adjusted' if adjusted else ''}"
            found[name] = get_label_quality_scores(
                given, told[source], method=method, adjust_pred_probs=adjusted
            )
    return found


def precision(score: np.ndarray, wrong: np.ndarray) -> float:
    """The share of wrong labels among as many of the most suspect as there are."""
    return float(np.mean(wrong[np.argsort(score, kind="stable")[: wrong.sum()]]))


def compared(cell: Cell, told: np.ndarray | None) -> dict:
    """Both rankings of one cell; `told` are somebody's out-of-sample probabilities, if any."""
    given, wrong = cell.given, cell.given != cell.data.clean
    row = {"data": cell.data.name, "noise": cell.noise, "seed": cell.seed, "n": len(given)}
    found = find_label_errors(None if told is not None else cell.data.features, given,
                              probabilities=told, seed=cell.seed)  # fmt: skip
    right = found.table.sort_values("index")["probability"].to_numpy()
    row |= {"rate": float(wrong.mean()), "flagged": float(np.mean(found.labels != given))}
    row |= {"low": found.noise_interval[0], "high": found.noise_interval[1]}
    if not wrong.any():
        return row
    row |= {"ours": auroc(right, wrong), "ours_precision": precision(right, wrong)}
    features, sources = cell.data.features, {"model": told}
    if told is None:
        sources = {"logistic": probabilities(features, given), "kNN": neighbours(features, given)}
    other = theirs(given, sources)
    row["theirs"] = {name: auroc(score, wrong) for name, score in other.items()}
    row["theirs_precision"] = max(precision(score, wrong) for score in other.values())
    return row


def tables(seed: int) -> Iterator[Data]:
    """Two tables and one text set that come with scikit-learn."""
    from sklearn.datasets import load_breast_cancer, load_wine
    from sklearn.preprocessing import StandardScaler

    for name, load in (("breast cancer", load_breast_cancer), ("wine", load_wine)):
        x, y = load(return_X_y=True)
        yield Data(name, StandardScaler().fit_transform(x).astype(np.float32), np.asarray(y))
    yield names(seed)


def names(seed: int) -> Data:
    """Text that scikit-learn carries: lines of its data sets' descriptions, and whose they are."""
    from sklearn import datasets
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    loaders = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
    lines, label = [], []
    for number, name in enumerate(loaders):
        words = getattr(datasets, f"load_{name}")().DESCR.split()
        parts = [" ".join(words[i : i + 8]) for i in range(0, len(words) - 7, 8)][:80]
        lines += parts
        label += [number] * len(parts)
    table = TfidfVectorizer(sublinear_tf=True).fit_transform(lines)
    x = TruncatedSVD(32, random_state=seed).fit_transform(table)
    return Data("descriptions", unit(x), np.array(label))


def published(folder: pathlib.Path) -> Iterator[tuple[Cell, np.ndarray]]:
    """CIFAR-10N with the out-of-sample probabilities that cleanlab's authors published."""
    if not (folder / "cifar10n_probabilities.npz").exists():
        return
    human = np.load(folder / "cifar10n.npz")
    for name, told in np.load(folder / "cifar10n_probabilities.npz").items():
        told = told.astype(np.float64)
        told /= told.sum(1, keepdims=True)
        noise = "worse" if name.startswith("worst") else "aggre"
        clean = human["clean_label"].astype(int)
        data = Data(name, np.sqrt(told).astype(np.float32), clean)
        yield Cell(data, noise, 0, human[f"{noise}_label"].astype(int)), told


def chosen(folder: pathlib.Path | None, seed: int) -> Iterator[tuple[Cell, np.ndarray | None]]:
    """All cells of one seed, and the probabilities that come with them."""
    for data in (*[*digit_sets(seed)][2:3], *tables(seed)):
        for noise in NOISES:
            if data.images is None and noise[:4] in ("asym", "inst"):
                continue
            if noise == "sym80" and data.clean.max() < 5:
                continue
            if noise in ("sym50", "pair40") and data.clean.max() < 2:
                continue
            yield Cell(data, noise, seed, np.asarray(noisy(data, noise, seed, None))), None
    if folder is None:
        return
    for name in ("dino 1000", "clip 1000"):
        yield from ((cell, None) for cell in cells(folder, seed, only=name)
                    if seed == 0 or cell.noise not in (*HUMAN, "none"))  # fmt: skip
    if seed == 0:
        yield from published(folder)


def markdown(rows: list[dict]) -> str:
    """A table of all cells with wrong labels, over their seeds, and what the others say."""
    lines = [
        "| data | noise | n | wrong, % | ours | cleanlab's best | difference (lowest to highest) "
        "| precision: ours, theirs |",
        "|" + "---|" * 8,
    ]
    wrong = [row for row in rows if "ours" in row]
    cells: dict[tuple, list[dict]] = {}
    for row in wrong:
        cells.setdefault((row["data"], row["noise"]), []).append(row)
    for (data, noise), found in cells.items():
        mean = {name: np.mean([row[name] for row in found])
                for name in ("rate", "ours", "ours_precision", "theirs_precision")}  # fmt: skip
        apart = [gap(row) for row in found]
        bold = "**" if np.mean(apart) >= 0.01 else ""
        lines.append(
            f"| {data} | {noise} | {len(found)} | {100 * mean['rate']:.1f} "
            f"| {bold}{mean['ours']:.3f}{bold} | {mean['ours'] - np.mean(apart):.3f} "
            f"| {np.mean(apart):+.3f} ({min(apart):+.3f} to {max(apart):+.3f}) "
            f"| {mean['ours_precision']:.2f}, {mean['theirs_precision']:.2f} |"
        )
    lines += ["", *(f"- {line}" for line in (*goals(wrong), *single(rows)))]
    clean = [row["flagged"] for row in rows if "ours" not in row]
    covered = [row["low"] <= row["rate"] <= row["high"] for row in rows]
    lines += [f"- clean labels that are changed: {100 * max(clean, default=0):.2f} % at most"]
    lines += [f"- the interval covers the true rate in {sum(covered)} of {len(covered)}"]
    return "\n".join(lines) + "\n"


def gap(row: dict) -> float:
    """Our AUROC less the best of cleanlab's."""
    return row["ours"] - max(row["theirs"].values())


def goals(rows: list[dict]) -> Iterator[str]:
    """How many cells reach what was asked for."""
    for name, least, counts in GOALS:
        found = [gap(row) for row in rows if counts(row)]
        yield (
            f"{name}: {sum(one >= least for one in found)} of {len(found)} at {least:+.3f} or "
            f"above, mean {np.mean(found):+.3f}, least {min(found):+.3f}"
        )


def single(rows: list[dict]) -> list[str]:
    """Ours beside each single score of cleanlab's, over the cells that have them all."""
    scores = next((list(row["theirs"]) for row in rows if "ours" in row), [])
    known = [row for row in rows if "ours" in row and list(row["theirs"]) == scores]
    means = {name: np.mean([row["theirs"][name] for row in known]) for name in scores}
    ours = np.mean([row["ours"] for row in known])
    ranked = sorted(means, key=means.__getitem__, reverse=True)
    head = [f"mean of {len(known)} cells: ours {ours:.3f}"] if known else []
    return [*head, *(f"mean of {name}: {means[name]:.3f}" for name in ranked)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("ranking"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", default="", help="data sets whose name holds this text")
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        for cell, told in chosen(args.folder, seed):
            if args.only not in cell.data.name:
                continue
            rows.append(row := compared(cell, told))
            best = max(row.get("theirs", {"": 0.0}).values())
            print(row["data"], row["noise"], seed, row.get("ours"), best, flush=True)
            args.out.with_suffix(".json").write_text(json.dumps(rows, indent=1))
    args.out.with_suffix(".md").write_text(markdown(rows))


if __name__ == "__main__":
    main()

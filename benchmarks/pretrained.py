"""A pretrained model's features and noisy labels: what correction adds to logistic regression.

    python -m benchmarks.pretrained --features embeddings.npz --human cifar10n.npz --out found.json

Prints a table and writes all numbers, as fractions. The first file holds NAME_train and NAME_test
[n, d] of each model, train_label, test_label, and train_index, rows of CIFAR-10's training set.
The other one holds CIFAR-10N.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import sys

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import rmdnet_jax as rmd
from benchmarks.cells import CIFAR, Data, noisy
from rmdnet_jax.app.command import guarded
from rmdnet_jax.errors import all_within, first_line, wrong
from rmdnet_jax.evaluation import knn, linear_probe
from rmdnet_jax.files import write_json

NOISES = {"none": "none", "sym50": "symmetric 50 %", "sym80": "symmetric 80 %",
          "asym40": "asymmetric 40 %", "worse": "worse", "aggre": "aggregate"}  # fmt: skip
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # C of scikit-learn; that of `linear_probe` is 1
CONTROL = "tuned probe"  # what everything has to beat


def tuned_probe(bank: np.ndarray, label: np.ndarray, query: np.ndarray, seed: int) -> np.ndarray:
    """`linear_probe` of the strength that predicts held-out labels best, in five folds."""
    scaler = StandardScaler().fit(bank)
    x, score = scaler.transform(bank), np.zeros(len(STRENGTHS))
    for heard, held in KFold(5, shuffle=True, random_state=seed).split(x):
        model = LogisticRegression(max_iter=1000, warm_start=True)  # each from the one before
        for i, strength in enumerate(STRENGTHS):
            model.set_params(C=strength).fit(x[heard], label[heard])
            score[i] += np.sum(model.predict(x[held]) == label[held])
    best = LogisticRegression(C=STRENGTHS[score.argmax()], max_iter=1000).fit(x, label)
    return best.predict(scaler.transform(query))


def predictions(train: Data, label: np.ndarray, query: np.ndarray, seed: int, k: int) -> dict:
    """What each classifier says [m] after it has seen the labels [n]; k neighbours."""
    bank, classes = train.features, 1 + int(label.max())
    tuned, near = tuned_probe(bank, label, query, seed), knn(bank, label, query, classes, k)
    return {"probe": linear_probe(bank, label, query), "tuned probe": tuned, "kNN": near}


def compared(train: Data, test: Data, noise: str, human, seeds: int, k: int = 200) -> dict:
    """One row: wrong labels before and after, accuracies by seed, gains over the control."""
    hits: dict[str, list] = {}
    row: dict = {"features": train.name, "noise": noise, "before": [], "after": [], "in_doubt": []}
    for seed in range(seeds):
        rate = int(noise[3:]) / 100 if noise.startswith("sym") else None
        given = noisy(train, noise, seed, human) if rate is None else rmd.noise.symmetric(
            train.clean, rate=rate, inclusive=True, seed=seed)  # fmt: skip
        found = rmd.find_label_errors(train.features, given, seed=seed)
        row["before"].append(float(np.mean(given != train.clean)))
        row["after"].append(float(np.mean(found.labels != train.clean)))
        row["in_doubt"].append(found.in_doubt)
        told = predictions(train, given, test.features, seed, k)
        same = np.array_equal(found.labels, given)
        again = told if same else predictions(train, found.labels, test.features, seed, k)
        for name, said in {**told, **{f"corrected {key}": again[key] for key in again}}.items():
            hits.setdefault(name, []).append(said == test.clean)
    right = {name: np.array(hit, float) for name, hit in hits.items()}
    row["accuracy"] = {name: hit.mean(1).tolist() for name, hit in right.items()}
    return row | {"gain": {name: gain(hit - right[CONTROL]) for name, hit in right.items()}}


def gain(difference: np.ndarray) -> list[float]:
    """Mean of [seed, example], and its standard error: of seeds and of examples, together."""
    parts = [difference.mean(axis) for axis in (0, 1)]
    return [float(difference.mean()), float(np.sqrt(sum(x.var(ddof=1) / len(x) for x in parts)))]


def markdown(rows: list[dict]) -> str:
    """In %: accuracies, mean ± deviation over seeds, and gains, mean ± standard error."""
    names = list(rows[0]["accuracy"])
    heads = ["features", "noise", "labels wrong", *names, *(f"gain, {name}" for name in names[3:])]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        found = [100 * np.array(row["accuracy"][name]) for name in names]
        gains = [100 * np.array(row["gain"][name]) for name in names[3:]]
        rates = (f"{100 * np.mean(row[part]):.1f}" for part in ("before", "after"))
        cells = [f"{x.mean():.1f} ± {x.std(ddof=1):.1f}" for x in found]
        cells += [f"{mean:+.1f} ± {error:.1f}".replace("-", "−") for mean, error in gains]
        lines.append([row["features"], NOISES[row["noise"]], " → ".join(rates), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def arrays(path: str, argument: str, *needed: str) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file; raises `UserError` unless those needed are among them."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in (*file.files, *needed)}
    except Exception as error:  # a damaged file raises anything
        raise wrong(argument, f"be as --help says, got {path!r}: {first_line(error)}") from None


def read(features: str, human: str) -> tuple[list[tuple[Data, Data]], dict[str, np.ndarray]]:
    """Training and test set of each model, and people's labels; raises `UserError`."""
    told = arrays(human, "human", "clean_label", "worse_label", "aggre_label")
    file = arrays(features, "features", "train_index", "train_label", "test_label")
    index, label, test = (file[name] for name in ("train_index", "train_label", "test_label"))
    if not np.array_equal(told["clean_label"].take(index, mode="clip"), label):
        raise wrong("human", "have as clean_label[train_index] the train_label of features")
    sets = []
    for name in [key.removesuffix("_train") for key in file if key.endswith("_train")]:
        x, query = (file.get(f"{name}_{part}", np.zeros(0)) for part in ("train", "test"))
        if (len(x), len(query)) != (len(label), len(test)):
            raise wrong("features", f"hold a row of {name}_train and {name}_test for each label")
        data = Data(name, x.astype(np.float32), label.astype(int), rows=index, moves=CIFAR)
        sets.append((data, Data(name, query.astype(np.float32), test.astype(int))))
    return sets, told


def run(args: argparse.Namespace) -> None:
    all_within("[2, inf)", whole=True, seeds=args.seeds, neighbours=args.neighbours)
    if not (out := pathlib.Path(args.out)).parent.is_dir():
        raise wrong("out", f"be in a folder that exists, got {args.out!r}")
    sets, human = read(args.features, args.human)
    rows: list[dict] = []
    with threadpool_limits(1):  # for so little, more threads take longer
        for (train, test), noise in itertools.product(sets, NOISES):
            rows.append(compared(train, test, noise, human, args.seeds, args.neighbours))
            write_json(out, rows)
    print(markdown(rows))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("features", "human", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--neighbours", type=int, default=200)
    return guarded("benchmarks.pretrained", lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())

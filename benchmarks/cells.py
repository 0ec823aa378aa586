"""The cells that label correction is measured on: features, clean labels, and noise of all kinds.

A cell is one data set with one kind of noise and one seed. A folder may hold `cifar10n.npz`,
`cifar10_jpeg.npz`, `embeddings.npz`, `weak_teacher.npz` and any `teacher_*.npz` with `features`
[n, d] and `index` [n], rows of CIFAR-10. Without a folder the cells are of scikit-learn's data.
"""

from __future__ import annotations

import functools
import io
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

import rmdnet_jax as rmd

CIFAR = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}
DIGITS = {7: 1, 2: 7, 5: 6, 6: 5, 3: 8}
HUMAN = ("aggre", "random_label1", "random_label2", "random_label3", "worse")
NOISES = ("none", "sym20", "sym50", "sym80", "pair40", "asym40", "instance40")


class Data(NamedTuple):
    """Features of one data set, and what is right."""

    name: str
    features: np.ndarray  # float32 [n, d]
    clean: np.ndarray  # int [n]
    images: np.ndarray | None = None  # uint8 [n, height, width, channel]
    rows: np.ndarray | None = None  # of CIFAR-10, for human labels
    moves: dict | None = None  # asymmetric noise


class Cell(NamedTuple):
    """One data set with one kind of noise."""

    data: Data
    noise: str
    seed: int
    given: np.ndarray  # int [n]


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of unit norm, float32."""
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels float32 [1797, 64] and labels of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.data.astype(np.float32), found.target


def digit_sets(seed: int) -> Iterator[Data]:
    """Unit rows of pixels, and two principal components of 200."""
    from sklearn.decomposition import PCA

    x, y = digits()
    order = np.random.default_rng(seed).permutation(len(x))
    for size in (300, 600, 1442):
        rows = order[:size]
        images = (x[rows] * 15.9).astype(np.uint8).reshape(-1, 8, 8, 1)
        yield Data(f"digits {size}", unit(x[rows]), y[rows], images, moves=DIGITS)
    rows = order[:200]
    yield Data("digits 200", unit(x[rows]), y[rows], moves=DIGITS)
    flat = PCA(2, random_state=0).fit_transform(x[rows]).astype(np.float32)
    yield Data("digits 200, 2 components", flat, y[rows], moves=DIGITS)


def toys(seed: int) -> Iterator[Data]:
    """Small and overlapping sets."""
    from sklearn.datasets import load_iris, make_moons
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(seed)
    x, y = load_iris(return_X_y=True)
    yield Data("iris", StandardScaler().fit_transform(x).astype(np.float32), np.asarray(y))
    x, y = make_moons(400, noise=0.2, random_state=seed)
    yield Data("two moons", x.astype(np.float32), y)
    above = np.repeat(np.arange(4), 150)
    x = np.eye(8)[above] + 0.25 * random.normal(size=(600, 8))
    below = 2 * above + random.integers(0, 2, 600)
    yield Data("superclasses", x.astype(np.float32), below)


def photographs(folder: pathlib.Path, seed: int, large: bool) -> Iterator[Data]:
    """What the folder holds of CIFAR-10: teachers' features, embeddings, pixels."""
    if not (folder / "cifar10n.npz").exists():
        return
    clean = np.load(folder / "cifar10n.npz")["clean_label"].astype(int)
    order = np.random.default_rng(seed)

    def sets(name, features, index, sizes):
        shuffled = order.permutation(len(index))
        for size in dict.fromkeys(min(size, len(index)) for size in sizes):
            part = shuffled[:size]
            rows = index[part]
            x = unit(features[part])
            yield Data(f"{name} {size}", x, clean[rows], photos(folder, rows), rows, CIFAR)

    sizes = (300, 600, 1500, 5000, 50000)[: 5 if large else 3]
    for path in sorted([*folder.glob("weak_teacher.npz"), *folder.glob("teacher_*.npz")]):
        file = np.load(path)
        yield from sets(path.stem, file["features"], file["index"].astype(int), sizes)
    if (folder / "embeddings.npz").exists():
        file = np.load(folder / "embeddings.npz")
        for name in ("dino", "clip"):
            yield from sets(name, file[f"{name}_train"], file["train_index"], (300, 1000))
    if (folder / "cifar10_jpeg.npz").exists():
        rows = order.permutation(50000)[: 5000 if large else 1000]
        yield from sets("pixels", components(photos(folder, rows)), rows, (300, 1000, 5000))


def components(images: np.ndarray) -> np.ndarray:
    """12 principal components of images shrunk to 8x8."""
    from sklearn.decomposition import PCA

    x = images.reshape(len(images), 8, 4, 8, 4, 3).mean((2, 4)).reshape(len(images), -1)
    return PCA(12, random_state=0).fit_transform(x - x.mean(0))


@functools.cache
def _jpeg(folder: pathlib.Path) -> tuple[bytes, np.ndarray]:
    file = np.load(folder / "cifar10_jpeg.npz")
    return file["train_blob"].tobytes(), file["train_offsets"]


def photos(folder: pathlib.Path, rows: np.ndarray) -> np.ndarray | None:
    """Images uint8 [n, 32, 32, 3] of CIFAR-10's training set."""
    from PIL import Image

    if not (folder / "cifar10_jpeg.npz").exists():
        return None
    blob, at = _jpeg(folder)
    return np.stack([np.asarray(Image.open(io.BytesIO(blob[at[i] : at[i + 1]]))) for i in rows])


def noisy(data: Data, noise: str, seed: int, human: np.lib.npyio.NpzFile | None) -> np.ndarray:
    """Given labels of one kind; `human` holds the columns of CIFAR-10N."""
    y, classes = data.clean, range(int(data.clean.max()) + 1)
    if noise == "none":
        return y
    if noise == "swap":  # half of two classes have each other's name
        moves = np.random.default_rng(seed).random(len(y)) < 0.5
        return np.where(moves & (y < 2), 1 - y, y)
    if noise in HUMAN:
        column = noise if noise.startswith("random") else f"{noise}_label"
        return human[column][data.rows].astype(int)
    kind, rate = noise.rstrip("0123456789"), int(noise[-2:]) / 100
    if kind == "sym":
        return rmd.noise.symmetric(y, rate=rate, classes=classes, seed=seed)
    if kind == "pair":
        return rmd.noise.pair(y, rate=rate, classes=classes, seed=seed)
    if kind == "asym":
        return rmd.noise.asymmetric(y, rate=rate, mapping=data.moves, classes=classes, seed=seed)
    return rmd.noise.instance(y, data.images, rate=rate, classes=classes, seed=seed)


def cells(
    folder: pathlib.Path | None, seed: int, large: bool = False, only: str = ""
) -> Iterator[Cell]:
    """All cells of one seed, of data sets whose name holds the text `only`."""
    sets = [digit_sets(seed), toys(seed)]
    human = None
    if folder is not None:
        sets.append(photographs(folder, seed, large))
        human = np.load(folder / "cifar10n.npz")
    for data in (data for part in sets for data in part):
        if only not in data.name:
            continue
        small = data.moves is None
        for noise in (*NOISES, *(["swap"] if data.rows is None else HUMAN)):
            if noise == "instance40" and data.images is None:
                continue
            if small and noise in ("sym80", "asym40", "pair40") and data.clean.max() < 9:
                continue
            yield Cell(data, noise, seed, np.asarray(noisy(data, noise, seed, human)))

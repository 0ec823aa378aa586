"""What the report draws: small pictures of examples, and a map of their features."""

from __future__ import annotations

import base64
import io
import warnings
from typing import Any

import numpy as np

from rmdnet_jax.app.audit.inputs import LARGE, Images
from rmdnet_jax.labels.audit import LabelErrors

NEAR = 6  # neighbours of each example
PICTURED = 600  # suspects with a picture
SURROUNDED = 100  # suspects whose neighbours have one, too
BYTES = 10_000_000  # of all pictures
SMALL = 64  # the longer side of a neighbour's picture; a suspect's is LARGE
MAPPED = 2_000  # points of the map


def thumbnails(found: LabelErrors, first: np.ndarray, images: Images) -> dict[int, str]:
    """Small pictures by index, the most suspect first, until they are many bytes."""
    index = found.table["index"].to_numpy()[first]
    near = found.neighbours[index[:SURROUNDED], :NEAR].ravel()
    wanted = dict.fromkeys(near.tolist(), SMALL) | dict.fromkeys(index[:PICTURED].tolist(), LARGE)
    order = dict.fromkeys(
        [*index[:SURROUNDED].tolist(), *near.tolist(), *index[:PICTURED].tolist()]
    )
    pictures, left = {}, BYTES
    for i in order:
        image = images(i)
        uri = "" if image is None else _thumbnail(np.asarray(image), wanted[i])
        left -= len(uri)
        if left < 0:
            break
        if uri:
            pictures[i] = uri
    return pictures


def _thumbnail(image: np.ndarray, side: int) -> str:
    """A picture of at most `side` pixels as a data URI."""
    from PIL import Image

    picture, file = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((side, side))
    picture.save(file, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def places(found: LabelErrors, features: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Indices [m], half of them the most suspect, and their places [m, 2] on a map by t-SNE."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    index = found.table["index"].to_numpy()
    half = min(MAPPED // 2, len(index))
    rest = index[half + np.random.default_rng(0).permutation(len(index) - half)[: MAPPED - half]]
    chosen = np.concatenate([index[:half], rest])
    rows = np.asarray(features)[chosen].astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    if len(np.unique(rows, axis=0)) < 4:
        return None  # nothing that a map could show
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of columns that are constant
        most = min(50, *rows.shape)
        rows = PCA(most, random_state=0).fit_transform(rows) if rows.shape[1] > 2 else rows
        maker = TSNE(perplexity=min(30, (len(rows) - 1) / 3), max_iter=500, random_state=0)
        spots = maker.fit_transform(rows.astype(np.float32))
    return (chosen, spots) if np.isfinite(spots).all() else None


def laid(
    spots: tuple[np.ndarray, np.ndarray], shown: np.ndarray, found: LabelErrors
) -> dict[str, Any]:
    """Rows of the page and their places, both axes in [0, 1]."""
    chosen, at = spots
    row = {i: r for r, i in enumerate(found.table["index"].to_numpy()[shown].tolist())}
    at = (at - at.min(0)) / np.maximum(np.ptp(at, axis=0), 1e-12)
    x, y = at.round(4).T.tolist()
    return {"row": [row[i] for i in chosen.tolist()], "x": x, "y": y}

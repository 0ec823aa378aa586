"""Decodes a CIFAR archive of encoded images to plain arrays, and checks their pixels.

    python -m benchmarks.gpu.unpack cifar10_jpeg.npz runs/cifar10.npz

An archive holds `{train,test}_blob` uint8, `{train,test}_offsets` [n + 1], `{train,test}_labels`
[n], `names`, and `side` where an image is a mosaic of side x side examples.
"""

from __future__ import annotations

import hashlib
import io
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

# the first digits of SHA-256 of CIFAR-10 (JPEG) and of CIFAR-100 (AVIF), decoded by Pillow
HASHES = {
    "images": ("5aaf8a2cf2e577ff", "b5ab40b5be7c16ff"),
    "test_images": ("5fce8f6a84d7de12", "8c3ea7b4b28ac5f7"),
    "labels": ("2b7cd2f244873176", "d8fc1b40c765862b"),
}


def pixels(archive, split: str) -> np.ndarray:
    """uint8 [n, 32, 32, 3] of a split."""
    blob, offset = archive[f"{split}_blob"].tobytes(), archive[f"{split}_offsets"]
    side = int(archive["side"]) if "side" in archive else 1

    def one(i: int) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(blob[offset[i] : offset[i + 1]])).convert("RGB"))

    with ThreadPoolExecutor() as pool:
        sheets = np.stack(list(pool.map(one, range(len(offset) - 1), chunksize=100)))
    tiles = sheets.reshape(-1, side, 32, side, 32, 3).transpose(0, 1, 3, 2, 4, 5)
    return tiles.reshape(-1, 32, 32, 3)


def main(source: str, target: str) -> None:
    archive, arrays = np.load(source, allow_pickle=False), {}
    for split, prefix in (("train", ""), ("test", "test_")):
        arrays[f"{prefix}images"] = pixels(archive, split)
        arrays[f"{prefix}labels"] = archive[f"{split}_labels"]
    arrays["names"] = archive["names"].astype(str)
    for name, known in HASHES.items():
        found = hashlib.sha256(np.ascontiguousarray(arrays[name]).tobytes()).hexdigest()[:16]
        verdict = "as expected" if found in known else "NOT AS EXPECTED: other pixels"
        print(name, arrays[name].shape, found, verdict)
    np.savez(target, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:3])

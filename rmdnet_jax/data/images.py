"""Encoded images as pixels: what a file shows, upright, in whatever form it stores it.

Transparent parts become white. Grey images of 16 bits are scaled to 8. Of an animation the first
frame counts. What cannot be shown in [0, 255] without a guess is refused.
"""

from __future__ import annotations

import io
import itertools
import os
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from rmdnet_jax.errors import UserError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK = 1024  # examples decoded between two looks at the progress bar
THREADS = min(16, os.cpu_count() or 1)  # Pillow lets others run while it unpacks a large image
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's name of a channel count
NAMED = 20  # broken images in an error

Items = Iterator[tuple[int, Path | bytes]]  # (row, encoded image)


def decode(images: np.ndarray, items: Items, title: str) -> dict[str, str]:
    """Fills `images` with decoded ones; a bar shows progress on a terminal.

    Returns:
      Which cannot be read, by path, and why.
    """
    broken, moving = _decoded(items, images.shape[1:], title, images)
    if moving:
        warnings.warn(
            f"of {counted(len(moving), 'animation')} only the first frame is used: {some(moving)}",
            stacklevel=2,
        )
    return broken


def refuse(broken: dict[str, str]) -> None:
    """Raises `UserError` for images that cannot be read; it names them all, up to `NAMED`."""
    if not broken:
        return
    told = [f"{what} ({why})" for what, why in broken.items()]
    text = f"dir: cannot read {counted(len(told), 'image')}: {some(told, NAMED)}"
    raise UserError(text, argument=True)


def unreadable(items: Items, shape: tuple[int, ...], title: str) -> dict[str, str]:
    """Which images cannot be read, by path, and why."""
    return _decoded(items, shape, title)[0]


def _decoded(
    items: Items, shape: tuple[int, ...], title: str, images: np.ndarray | None = None
) -> tuple[dict[str, str], list[str]]:
    """Decodes images, and keeps them where there is place; which are broken, which move."""
    broken: dict[int, tuple[str, str]] = {}
    moving: dict[int, str] = {}

    def fill(part: list[tuple[int, Path | bytes]]) -> None:
        for row, encoded in part:
            what = str(encoded) if isinstance(encoded, Path) else f"{title} {row}"
            try:
                pixels, moves = unpacked(encoded, shape)
            except Exception as error:  # a damaged file raises anything
                broken[row] = what, first_line(error)
                continue
            if images is not None:
                images[row] = pixels
            if moves:
                moving[row] = what

    total = None if images is None else len(images)
    bar = tqdm(total=total, desc=f"decoding {title}", disable=None)
    with ThreadPoolExecutor(THREADS) as pool, bar:
        while chunk := list(itertools.islice(items, CHUNK)):
            # many images a task: a task costs more than a small image
            list(pool.map(fill, [chunk[i::THREADS] for i in range(THREADS)]))
            bar.update(len(chunk))
    return dict(broken[row] for row in sorted(broken)), [moving[row] for row in sorted(moving)]


def unpacked(encoded: Path | bytes, shape: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """The image in `shape`: the largest centred part of its aspect, scaled with antialiasing.

    And whether there are further frames. Raises anything for what is no image.
    """
    from PIL import Image, ImageOps

    height, width, channels = shape
    if isinstance(encoded, Path) and not encoded.is_file():  # a pipe would wait for ever
        raise OSError("a link that leads nowhere" if encoded.is_symlink() else "no regular file")
    with Image.open(encoded if isinstance(encoded, Path) else io.BytesIO(encoded)) as file:
        # A photo of some cameras holds previews of itself: it does not move.
        moves = file.format != "MPO" and getattr(file, "is_animated", False)
        image = _shown(file, MODES[channels])
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(shape), moves


def _shown(image: Image, mode: str) -> Image:
    """What an image shows, upright, in a mode of `MODES`."""
    from PIL import Image, ImageOps

    ImageOps.exif_transpose(image, in_place=True)
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if mode != "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)  # which copies


def _eight_bits(image: Any) -> Image:
    """A grey image of 16 bits, or of 12, scaled to [0, 255]."""
    from PIL import Image

    tags = getattr(image, "tag_v2", {})  # of a TIFF
    if not (image.mode.startswith("I;16") or image.format in ("PNG", "PPM")):
        raise ValueError(f"nobody knows the range of its mode {image.mode}: save it with 8 bits")
    if image.has_transparency_data:
        raise ValueError("16 bits with a transparent value: save it with 8 bits")
    top = 2 ** tags.get(258, (16,))[0] - 1  # bits a sample
    grey = np.round(np.asarray(image).astype(np.float32) * (255 / top)).astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(262) == 0 else grey)  # 0: white is zero


def counted(number: int, word: str) -> str:
    """`1 image`, `1,200 images`."""
    return f"{number:,} {word}{'s' * (number != 1)}"


def some(names: Iterable[str], most: int = 5) -> str:
    """The first names of a list, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

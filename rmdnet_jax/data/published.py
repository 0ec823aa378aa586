"""Data sets with real label noise, in the folders and lists that their publishers give out.

`clothing1m` (Xiao et al., CVPR 2015): `images/`, `noisy_train_key_list.txt`, `noisy_label_kv.txt`;
to test, `clean_test_key_list.txt` and `clean_label_kv.txt`. The lists may lie in `annotations/`.
`webvision` (Li et al. 2017, version 1.0): `info/train_filelist_google.txt` and
`info/val_filelist.txt`, whose images lie in `val_images_256/` or `val_images/`.
`mini_webvision`: its first 50 classes, as papers on noisy labels do (Chen et al., ICML 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from rmdnet_jax.data import folder
from rmdnet_jax.data.folder import Split
from rmdnet_jax.data.source import Source
from rmdnet_jax.data.store import Streams, never
from rmdnet_jax.errors import UserError, one_of, wrong
from rmdnet_jax.files import place

Splits = tuple[list[str], Split, Split]  # names of the classes, training and test images
CLOTHES = (  # in the order of their numbers
    "T-Shirt", "Shirt", "Knitwear", "Chiffon", "Sweater", "Hoodie", "Windbreaker", "Jacket",
    "Downcoat", "Suit", "Shawl", "Dress", "Vest", "Underwear",
)  # fmt: skip
VALIDATION = ("val_images_256", "val_images")


def load(
    name: str, dir: str, image_size: int, broken: str = "refuse", stream: Streams = never
) -> Source:
    """The images of a published data set as RGB squares, in the order of its lists.

    Args:
      name: out of `LISTS`.
      dir: its folder.
      image_size: the side, pixels.
      broken: see `folder.load`.
      stream: see `folder.load`.

    Raises:
      UserError: no such folder or list, a line that cannot be read, an image without a label.
    """
    one_of("broken", broken, folder.BROKEN)
    root = place(dir, "dir")
    if not dir or not root.is_dir():
        raise wrong("dir", f"be the folder of {name}, got {dir!r}")
    names, train, test = LISTS[name](root)
    for file, label in (*train, *test):
        if not 0 <= label < len(names):
            got = f"{label} of {file} in {str(root)!r}"
            raise wrong("dir", f"have labels in [0, {len(names)}), got {got}")
    splits = {"images": train, "test_images": test}
    return folder.read(name, root, image_size, names, splits, broken, stream)


def _lines(path: Path) -> list[str]:
    """The lines of a list that hold something."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"dir: {str(path)!r} cannot be read: {why}", argument=True) from None


def _labels(path: Path) -> Split:
    """Lines of a file and a number."""
    found = []
    for line in _lines(path):
        file, _, label = line.strip().rpartition(" ")
        if not file or not label.isdecimal():
            must = f"have a file and a class number in each line of {str(path)!r}"
            raise wrong("dir", f"{must}, got {line!r:.80}")
        found.append((file.strip(), int(label)))
    return found


def _clothing1m(root: Path) -> Splits:
    inner = root / "annotations"
    lists = inner if inner.is_dir() else root

    def split(keys: str, labels: str) -> Split:
        known = dict(_labels(lists / labels))
        files = [line.strip() for line in _lines(lists / keys)]
        if lost := [file for file in files if file not in known]:
            raise wrong("dir", f"hold a label of {lost[0]!r} in {str(lists / labels)!r}")
        return [(file, known[file]) for file in files]

    train = split("noisy_train_key_list.txt", "noisy_label_kv.txt")
    return [*CLOTHES], train, split("clean_test_key_list.txt", "clean_label_kv.txt")


def _webvision(root: Path, classes: int = 1000) -> Splits:
    info = root / "info"
    names = [str(number) for number in range(classes)]
    if (info / "synsets.txt").is_file():  # with the synset: some words are there twice
        names = (_lines(info / "synsets.txt") + names)[:classes]
    held = next((name for name in VALIDATION if (root / name).is_dir()), VALIDATION[0])
    train = _first(_labels(info / "train_filelist_google.txt"), classes)
    test = _first(_labels(info / "val_filelist.txt"), classes)
    return names, train, [(f"{held}/{file}", label) for file, label in test]


def _first(split: Iterable[tuple[str, int]], classes: int) -> Split:
    """The images of the first classes; of all there may be, all."""
    return [(file, label) for file, label in split if label < classes or classes == 1000]


LISTS: dict[str, Callable[[Path], Splits]] = {
    "clothing1m": _clothing1m,
    "webvision": _webvision,
    "mini_webvision": lambda root: _webvision(root, 50),
}

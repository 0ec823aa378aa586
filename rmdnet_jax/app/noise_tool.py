"""Label files: draw them once, look at them, compare two.

python -m rmdnet_jax.data.noise make labels.npz --data cifar10 --kind symmetric --fields rate=0.5 --seed 0
python -m rmdnet_jax.data.noise show labels.npz --figure transition.png
python -m rmdnet_jax.data.noise show cifar10n.npz:worse_label --data cifar10
python -m rmdnet_jax.data.noise diff labels.npz cifar10n.npz:worse_label

FILE is .npy, .npz or .csv, one label for each training example in the original order; an array of an .npz follows a colon (`labels` unless
said). `make` writes the labels, the clean ones and what was drawn; experiments read it by --config.noise.path. `show` holds a file against
the clean labels in it or of --data. `diff` ends with status 0 where all labels agree, with 1 where some do not.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

import numpy as np

from rmdnet_jax import files
from rmdnet_jax.app import config as configuration
from rmdnet_jax.app import report
from rmdnet_jax.app import setup as run
from rmdnet_jax.data import sources
from rmdnet_jax.errors import UserError
from rmdnet_jax.labels import noise
from rmdnet_jax.types import entry, hyper


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rmdnet_jax.data.noise",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    for name, action, files in (
        ("make", make, ["file"]),
        ("show", show, ["file"]),
        ("diff", diff, ["file", "other"]),
    ):
        command = commands.add_parser(name, help=(action.__doc__ or "").splitlines()[0])
        command.set_defaults(action=action)
        for file in files:
            command.add_argument(file, metavar=file.upper())
        if name != "diff":
            command.add_argument(
                "--data",
                default="" if name == "show" else "digits",
                help="data set, as config.data.name",
            )
            command.add_argument("--dir", default="", help="where it lies, as config.data.dir")
        if name == "make":
            command.add_argument(
                "--kind", default="symmetric", help=f"out of {', '.join(noise.KINDS)}"
            )
            command.add_argument("--fields", default="", help="of the kind: rate=0.5,inclusive")
            command.add_argument("--seed", type=int, default=0)
        if name == "show":
            command.add_argument("--figure", default="", help="a .png of the transition matrix")
    args = parser.parse_args()
    try:
        return args.action(args)
    except UserError as error:
        print(f"rmdnet_jax: {error}", file=sys.stderr)
        return 2


def read(text: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The labels that FILE[:FIELD] names, and the clean ones that lie beside them, if any."""
    path, field = text, "labels"
    if not pathlib.Path(text).exists() and ":" in text:
        path, _, field = text.rpartition(":")
    labels = noise.read(path, field)
    if not path.endswith(".npz"):
        return labels, None
    with np.load(path, allow_pickle=False) as file:
        return labels, next(
            (
                file[name].astype(np.int32)
                for name in ("clean", "clean_label")
                if name in file.files
            ),
            None,
        )


def make(args: argparse.Namespace) -> int:
    """Draws the labels of a data set and writes them."""
    path = pathlib.Path(args.file)
    if path.suffix != ".npz":
        raise UserError(f"FILE must end in .npz, got {args.file!r}")
    factory = entry(noise.KINDS, "--kind", args.kind, ())
    config = configuration.default()
    with config.unlocked():
        config.data.name, config.data.dir = args.data, args.dir
        config.noise = configuration.choose(
            noise.KINDS, args.kind, **vars(configuration.parse(args.fields, **hyper(factory)))
        )
        config.noise.seed = args.seed
    configuration.check(config)
    source = sources.load(args.data, dir=args.dir)
    kind, given = run.corrupt(config, source)
    about = {"data": source.name, **config.noise.to_dict()}
    arrays = {
        "labels": given,
        "clean": source.labels,
        "names": np.array(source.names),
        "about": np.array(json.dumps(about)),
    }
    try:
        files.write_arrays(path, **arrays)
    except OSError as error:
        raise UserError(f"FILE {args.file!r} cannot be written: {error.strerror}") from None
    print(describe(given, source.labels if kind.known else None, len(source.names)))
    return 0


def show(args: argparse.Namespace) -> int:
    """Tells a file's rate, transition matrix and hash."""
    given, clean = read(args.file)
    source = sources.load(args.data, dir=args.dir) if args.data else None
    clean = clean if source is None else source.labels
    if clean is not None and len(clean) != len(given):
        raise UserError(f"{args.file!r} holds {len(given)} labels for {len(clean)} clean ones")
    classes = 1 + max(int(given.max()), -1 if clean is None else int(clean.max()))
    print(describe(given, clean, classes))
    if args.figure:
        if clean is None:
            raise UserError("--figure needs clean labels: name the data set by --data")
        names = source.names if source is not None else tuple(map(str, range(classes)))
        report.transition(
            np.asarray(noise.describe(clean, given, classes)["transition"]),
            names,
            pathlib.Path(args.figure),
        )
    return 0


def describe(given: np.ndarray, clean: np.ndarray | None, classes: int) -> str:
    """The lines that `make` and `show` print."""
    found = noise.describe(
        given if clean is None else clean, given, classes, known=clean is not None
    )
    lines = [f"{len(given)} labels of {classes} classes, {np.bincount(given, minlength=classes).min()} to "
             f"{np.bincount(given, minlength=classes).max()} a class, sha256 {found['sha256']}"]  # fmt: skip
    if clean is None:
        return "\n".join(
            [*lines, "no clean labels to hold them against: name the data set by --data"]
        )
    return "\n".join(
        [
            *lines,
            f"{found['rate']:.4f} of the labels are wrong",
            *report.matrix(found["transition"]),
        ]
    )


def diff(args: argparse.Namespace) -> int:
    """Compares two files; status 1 where a label differs."""
    (one, _), (two, _) = read(args.file), read(args.other)
    if len(one) != len(two):
        raise UserError(f"{args.file!r} holds {len(one)} labels, {args.other!r} holds {len(two)}")
    rows = np.flatnonzero(one != two)
    print(f"{len(rows)} of {len(one)} labels differ ({len(rows) / len(one):.4f})")
    for row in rows[:10]:
        print(f"  example {row}: {one[row]} and {two[row]}")
    if len(rows) > 10:
        print(f"  and {len(rows) - 10} more")
    return int(len(rows) > 0)


if __name__ == "__main__":
    sys.exit(main())

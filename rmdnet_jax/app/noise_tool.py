"""Label files: draw them once, look at them, compare two.

rmdnet noise make labels.npz --data cifar10 --kind symmetric --fields rate=0.5 --seed 0
rmdnet noise show labels.npz --figure transition.png
rmdnet noise show cifar10n.npz:worse_label --data cifar10
rmdnet noise diff labels.npz cifar10n.npz:worse_label

FILE is .npy, .npz or .csv, one label for each training example in the original order. A field or
column follows a colon (`labels` unless said). `make` writes the labels, the clean ones and what
was drawn; experiments read the file by noise.path. `show` holds a file against the clean labels in
it or of --data. `diff` ends with status 0 where all labels agree, with 1 where some do not.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from rmdnet_jax import files
from rmdnet_jax.app import figures, overrides, report, schema, setup
from rmdnet_jax.app.command import Parser
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.errors import UserError, under
from rmdnet_jax.labels import files as label_files
from rmdnet_jax.labels import given as given_labels
from rmdnet_jax.labels import noise


def main(argv: list[str] | None = None) -> int:
    """Runs the tool; returns its exit status."""
    args = _parser().parse_args(argv)
    return args.action(args)


def _parser() -> Parser:
    parser = Parser(prog="rmdnet noise", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="make | show | diff")
    for action, default in ((make, "digits"), (show, ""), (diff, None)):
        command = commands.add_parser(action.__name__, help=action.__doc__)
        command.set_defaults(action=action)
        command.add_argument("file", metavar="FILE")
        if default is not None:
            command.add_argument("--data", default=default, help="data set, as data.name")
            command.add_argument("--dir", default="", help="where it lies, as data.dir")
        if action is make:
            command.add_argument("--kind", default="symmetric", help=f"of {', '.join(noise.KINDS)}")
            command.add_argument("--fields", default="", help="of the kind: rate=0.5,inclusive")
            command.add_argument("--seed", type=int, default=0)
        if action is show:
            command.add_argument("--figure", default="", help="a .png of the transition matrix")
        if action is diff:
            command.add_argument("other", metavar="OTHER")
    return parser


def read(text: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The labels that FILE[:FIELD] names, and the clean ones that lie beside them, if any."""
    path, field = label_files.named(text)
    labels = label_files.read(path, field or "labels")
    beside = {"clean", "clean_label"} & {*label_files.fields(path)}
    return labels, label_files.read(path, min(beside)) if beside else None


def make(args: argparse.Namespace) -> int:
    """Draws the labels of a data set and writes them."""
    path = files.place(args.file, "FILE")
    if path.suffix != ".npz":
        raise UserError(f"FILE must end in .npz, got {args.file!r}")
    fields = {f"noise.{name}": v for name, v in overrides.split(args.fields).items()}
    config = _config(args, {"noise": args.kind, "noise.seed": args.seed, **fields})
    source = setup.read(config)
    kind, given = setup.corrupt(config, source)
    about = {"data": source.name, **config.noise.to_dict()}
    with under("FILE"):
        files.write_arrays(
            path,
            labels=given,
            clean=source.labels,
            names=np.array(source.names),
            about=np.array(json.dumps(about)),
        )
    print(describe(given, source.labels if kind.known else None, len(source.names)))
    return 0


def _config(args: argparse.Namespace, values: dict) -> schema.Config:
    """The config of an experiment on --data, with values set."""
    place = {"data.dir": args.dir} if args.dir else {}
    return resolve(overrides.override(schema.digits(), {"data": args.data, **place, **values}))


def show(args: argparse.Namespace) -> int:
    """Tells a file's rate, transition matrix and hash."""
    source = setup.read(_config(args, {})) if args.data else None
    if source is None:
        given, clean = read(args.file)
    else:
        path, field = label_files.named(args.file)
        about = {"total": len(source.labels), "images": source.files}
        given = given_labels.read(path, field or "labels", source.names, **about)
        clean = source.labels
    if clean is not None and len(clean) != len(given):
        raise UserError(f"{args.file!r} holds {len(given)} labels for {len(clean)} clean ones")
    highest = max(int(given.max()), -1 if clean is None else int(clean.max()))
    names = tuple(map(str, range(highest + 1))) if source is None else source.names
    print(describe(given, clean, len(names)))
    if args.figure:
        if clean is None:
            raise UserError("--figure needs clean labels: name the data set by --data")
        shares = noise.transition(clean, given, len(names))
        figures.transition(shares, names, files.place(args.figure, "--figure"))
    return 0


def describe(given: np.ndarray, clean: np.ndarray | None, classes: int) -> str:
    """The lines that `make` and `show` print."""
    found = noise.describe(given if clean is None else clean, given, classes)
    counts = np.bincount(given, minlength=classes)
    spread = f"{counts.min()} to {counts.max()} a class"
    lines = [f"{len(given)} labels of {classes} classes, {spread}, sha256 {found['sha256']}"]
    if clean is None:
        lines.append("no clean labels to hold them against: name the data set by --data")
    else:
        lines.append(f"{found['rate']:.4f} of the labels are wrong")
        if why := given_labels.by_chance(clean, given):
            lines.append(f"WARNING: {why}")
        lines += report.matrix(found["transition"])
    return "\n".join(lines)


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

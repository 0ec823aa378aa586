"""`rmdnet audit`: finds wrong labels, suggests right ones, and writes a report to review.

    rmdnet audit --features e.npy --labels y.csv:label --out audit
    rmdnet audit --features table.csv --labels table.csv:class --out audit
    rmdnet audit --probabilities p.npy --labels y.npy --out audit
    rmdnet audit photos --teacher runs/x --out audit
    rmdnet audit runs/x

FILE is .npy, .npz, .csv or .parquet; a field or column follows a colon. Features are numbers
[n, d] of any model, labels [n] integers or text, rows in one order. PATH is a finished run, or a
folder of images in class folders. --out is a new folder, or a .csv file for the table alone.
"""

from __future__ import annotations

import pathlib
import warnings

from rmdnet_jax.app.command import Parser, soon
from rmdnet_jax.errors import UserError, within, wrong

FILES = ("features", "labels", "probabilities", "names", "texts")


def parser() -> Parser:
    """The flags."""
    made = Parser(prog="rmdnet audit", description=__doc__)
    made.add_argument("path", nargs="?", default="", metavar="PATH", help="a run or a folder")
    made.add_argument("--features", default="", metavar="FILE[:FIELD]", help="of any model [n, d]")
    made.add_argument("--labels", default="", metavar="FILE[:FIELD]", help="possibly wrong [n]")
    made.add_argument("--probabilities", default="", metavar="FILE[:FIELD]",
                      help="of a model that did not train on these examples [n, C]")  # fmt: skip
    made.add_argument("--names", default="", metavar="FILE[:FIELD]", help="ids or file names")
    made.add_argument("--texts", default="", metavar="FILE[:FIELD]", help="words to show")
    made.add_argument("--images", default="", metavar="FOLDER", help="of the files named")
    made.add_argument("--teacher", default="", metavar="RUN", help="gives features of a folder")
    made.add_argument("--encoder", default="", metavar="NAME", help="of a file of weights")
    made.add_argument("--size", type=int, default=0, help="side of the images for a teacher")
    made.add_argument("--out", default="", metavar="FOLDER", help="a run has its audit/")
    made.add_argument("--top", type=int, default=20, help="rows that are shown (20)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument(
        "--in_doubt",
        "--in-doubt",
        default="",
        metavar="keep|use",
        help="whether labels in doubt stay as they are, or are corrected (as the run does)",
    )
    made.add_argument("--force", action="store_true", help="replace an audit that is there")
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns 0."""
    args = parser().parse_args(argv)
    within("--top", args.top, "[0, inf)")
    within("--size", args.size, "[0, inf)")
    soon("rmdnet audit", "loading JAX and the data")
    out = _out(args)
    from rmdnet_jax import cpu, files
    from rmdnet_jax.app.audit import inputs, outputs, run, words
    from rmdnet_jax.labels.audit import find_label_errors  # beside what is slow to import

    if args.path:  # a network looks at images
        cpu.keep_memory()
    read = run.of_path(args) if args.path else inputs.of_files(args)

    def find():
        soon("rmdnet audit", f"comparing {len(read.labels):,} examples")
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "labels hold")  # `told` says it
                found = find_label_errors(
                    read.features, read.labels, probabilities=read.probabilities,
                    seed=args.seed, in_doubt=args.in_doubt or read.in_doubt, progress=True,
                )  # fmt: skip
            return outputs.keep_reviewed(found, read.reviewed)
        except UserError as error:
            text = f"--{error}" if error.argument else str(error)  # labels must -> --labels must
            raise UserError(text, argument=error.argument) from None

    if out.suffix == ".csv":
        found = find()
        files.write_text(out.resolve(), outputs.text(outputs.table(found, read)))
        print(words.told(found, read, args.top))
        print(f"written   {out}: {len(found.table):,} rows, the most suspect first")
        return 0
    with outputs.folder(out) as place:
        found = find()
        soon("rmdnet audit", "drawing the report")
        outputs.write(place, found, read, ["rmdnet", "audit", *(argv or [])])
    print(words.told(found, read, args.top))
    print(f"written   {out}/: {', '.join(sorted(path.name for path in out.iterdir()))}")
    print(f"next      open {out / outputs.PAGE} in a browser, mark labels, export reviewed.csv")
    if args.path:
        print("          train with labels=reviewed.csv, or with corrected_labels.csv+reviewed.csv")
    return 0


def _out(args) -> pathlib.Path:
    """Where the answer goes; refuses what cannot be, before any work."""
    from rmdnet_jax import files
    from rmdnet_jax.app.audit import outputs
    from rmdnet_jax.labels.files import named

    if args.path and not files.place(args.path, "the audited PATH").exists():
        got = f"{args.path!r}, which is not there"
        raise wrong("the audited PATH", f"be a run's workdir or a folder of images, got {got}")
    if args.path and args.labels:
        raise wrong("--labels", f"be left out beside {args.path!r}, which has its own")
    if not args.path:
        if not args.labels or not (args.features or args.probabilities):
            raise UserError("name --features or --probabilities, and --labels; or a run or folder")
        for name in ("teacher", "encoder"):
            if getattr(args, name):
                raise wrong(f"--{name}", "come with a folder of images")
    is_run = args.path and (files.place(args.path) / "config.json").is_file()
    if not args.out and not is_run:
        raise wrong("--out", "be given: a new folder, or a .csv file for the table alone")
    out = files.place(args.out or pathlib.Path(args.path) / "audit", "--out")
    given = [named(text)[0] for name in FILES if (text := getattr(args, name))]
    if out.suffix == ".csv":
        if out.resolve() in [files.place(path).resolve() for path in given]:
            raise wrong("--out", f"be a file beside the inputs, got {args.out!r}")
        if not out.parent.is_dir():
            raise wrong("--out", f"be in a folder that is there, got {args.out!r}")
        if out.is_dir():
            raise wrong("--out", f"be a file where it ends in .csv, got the folder {args.out!r}")
        if out.exists() and not args.force:
            raise wrong("--out", f"be a new file, got {args.out!r}: --force replaces it")
    else:
        if out.suffix in (".npy", ".npz", ".parquet", ".html", ".json"):
            raise wrong("--out", f"be a folder or a .csv file, got {args.out!r}")
        outputs.refuse(out, args.force, [*given, args.path, args.images, args.teacher])
    return out

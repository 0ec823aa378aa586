"""`rmdnet audit`: finds wrong labels from the features of any model, and writes them as a table.

    rmdnet audit --features e.npy --labels y.csv:label --out suspects.csv

FILE is .npy, .npz or .csv. A field or column follows a colon. Features are numbers [n, d]; labels
[n] are integers or text, in the same order.
"""

from __future__ import annotations

import pathlib
from typing import Any

from rmdnet_jax import files
from rmdnet_jax.app.command import Parser
from rmdnet_jax.errors import under, within, wrong
from rmdnet_jax.labels.files import named, read_array

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would calculate such a cell


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns 0."""
    parser = Parser(prog="rmdnet audit", description=__doc__)
    parser.add_argument("--features", required=True, metavar="FILE[:FIELD]")
    parser.add_argument("--labels", required=True, metavar="FILE[:FIELD]")
    parser.add_argument("--out", required=True, metavar="FILE.csv", help="the table")
    parser.add_argument("--top", type=int, default=20, help="rows that are shown (20)")
    parser.add_argument("--force", action="store_true", help="replace a table that is there")
    args = parser.parse_args(argv)
    within("--top", args.top, "[0, inf)")
    out = pathlib.Path(args.out).expanduser()
    inputs = [pathlib.Path(named(text)[0]).expanduser() for text in (args.features, args.labels)]
    if out.suffix != ".csv" or out.resolve() in [path.resolve() for path in inputs]:
        raise wrong("--out", f"be a .csv file beside the inputs, got {args.out!r}")
    if out.exists() and not args.force:
        raise wrong("--out", f"be a new file, got {args.out!r}: --force replaces it")

    features = read_array(*named(args.features), "--features", usual="features")
    rows = features.shape[0] if features.ndim else 0
    labels = read_array(*named(args.labels), "--labels", usual="labels", rows=rows)
    if labels.ndim != 1:
        got = f"shape {labels.shape}: name a column, as in labels.csv:label"
        raise wrong("--labels", f"be one a row, got {got}")

    from rmdnet_jax.labels.audit import find_label_errors  # beside what is slow to import

    found = find_label_errors(features, labels)
    table = harmless(found.table)
    with under("--out"):
        files.write_text(out, table.to_csv(index=False))
    print(found.reason)
    if args.top:
        print(table.head(args.top).to_string(index=False))
    print(f"{len(table)} rows, the most suspect first, are in {out}")
    return 0


def harmless(table: Any) -> Any:
    """The table with an apostrophe before each text that a spreadsheet would calculate."""

    def cell(value: object) -> object:
        return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

    return table.apply(lambda values: values.map(cell))

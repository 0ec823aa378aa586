"""What `rmdnet compile` prints. A GB is 2^30 bytes; an MB 2^20; a GFLOP is 10^9 operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]  # of one program, as the JSON file has it
SAYS = {
    "data": "gathering a batch",
    "modeling": "relation modeling",
    "features": "features",
    "guided": "relation-guided learning",
    "evaluation": "evaluation",
    "neighbours": "correction: neighbours",
    "graph": "correction: graph",
    "votes": "correction: votes",
}
GB, MB = 2**30, 2**20
COLUMNS = "{:26}{:>10}{:>12}{:>13}{:>9}{:>10}{:>10}  {}"
HEAD = COLUMNS.format(
    "program", "GB a chip", "batch fits", "collectives", "their MB", "GFLOP", "GB moved", "in one"
)


def opening(found: Row) -> str:
    """What is compiled for what.

    Example:
      >>> from rmdnet_jax.app.compile.words import opening
      >>> data = {"examples": 50000, "classes": 10, "image": (32, 32, 3)}
      >>> about = {"topology": "v5e:2x2", "chips": 4, "chip": "TPU v5 lite", "data": data}
      >>> print(opening(about | {"memory_bytes": 16 * 2**30, "encoder": {"name": "cnn"}}))
      cnn for v5e:2x2: 4 of TPU v5 lite with 16.0 GB each; 50,000 images of 32x32x3, 10 classes
    """
    data = found["data"]
    images = f"{data['examples']:,} images of {'x'.join(map(str, data['image']))}"
    return (
        f"{found['encoder']['name']} for {found['topology']}: {found['chips']} of {found['chip']} "
        f"with {found['memory_bytes'] / GB:.1f} GB each; {images}, {data['classes']} classes"
    )


def line(row: Row) -> str:
    """A program's line in the table below `HEAD`; all but the batch is of one chip."""
    size = f"{row['total_bytes'] / GB:.2f}"
    if "collectives" not in row:
        why = f"it does not compile: {row['error']}" if "error" in row else "it does not fit"
        return COLUMNS.format(SAYS[row["name"]], size, *"-----", why)
    times, told = exchanged(row)
    batch = f"{row['batch_that_fits']:,}" if row["batch"] else "-"
    return COLUMNS.format(
        SAYS[row["name"]], size, batch, times, f"{told / MB:.1f}",
        f"{row['flops'] / 1e9:.1f}", f"{row['bytes'] / GB:.2f}", row["unit"],
    )  # fmt: skip


def exchanged(row: Row) -> tuple[int, int]:
    """How many collectives a program has, and their bytes."""
    rows = row["collectives"]
    return sum(one["times"] for one in rows), sum(one["times"] * one["bytes"] for one in rows)


def kinds(row: Row) -> dict[str, tuple[int, int]]:
    """The collectives of a program and their bytes by kind."""
    names = dict.fromkeys(one["kind"] for one in row["collectives"])
    return {
        name: exchanged({"collectives": [x for x in row["collectives"] if x["kind"] == name]})
        for name in names
    }


def verdict(rows: Sequence[Row], memory: int) -> str:
    """Whether all of them fit, by how much; what chips exchange in a step; what was estimated."""
    most = max(rows, key=lambda row: row["total_bytes"])
    if failed := [SAYS[row["name"]] for row in rows if "error" in row]:
        return f"Cannot be compiled: {', '.join(failed)}. Try other sizes, or tell us."
    size, all_of_it = most["total_bytes"] / GB, memory / GB
    fits = all(row["fits"] for row in rows)
    lines = [
        f"{'Fits' if fits else 'Does not fit'}: at most {size:.2f} of {all_of_it:.1f} GB a chip "
        f"({SAYS[most['name']]}), {abs(all_of_it - size):.2f} GB "
        f"{'are free' if fits else 'too much'}."
    ]
    for row in rows:
        if row["batch"] and row.get("collectives"):
            told = ", ".join(
                f"{times} {name} of {told / MB:.1f} MB"
                for name, (times, told) in kinds(row).items()
            )
            most = row["collectives"][0]
            lines.append(
                f"A step of {SAYS[row['name']]} exchanges {told}; the largest is "
                f"{most['kind']} {most['shape']:.60} of {most['bytes'] / MB:.1f} MB."
            )
    if any(row["batch"] for row in rows):
        lines.append(
            "The batch that fits is a guess: temporaries are taken to grow as the batch. Compile "
            "again with it. No time is known before it runs."
        )
    return "\n".join(lines)

"""What `rmdnet audit` prints."""

from __future__ import annotations

from typing import Any

from rmdnet_jax.app.audit.inputs import Inputs
from rmdnet_jax.labels.audit import LabelErrors
from rmdnet_jax.labels.classes import alike
from rmdnet_jax.labels.files import harmless

DECISIONS = {"change": "to change", "in doubt": "in doubt, kept as given"}


def told(found: LabelErrors, inputs: Inputs, top: int) -> str:
    """What a terminal shows: the verdict, the noise rate, and the most suspect examples."""
    size, counts = len(found.table), found.table["decision"].value_counts()
    low, high = map(_share, found.noise_interval)
    rate = "unknown" if found.in_doubt else _share(found.noise_rate)
    kinds = [f"{counts[name]:,} {to}" for name, to in DECISIONS.items() if counts.get(name)]
    lines = [
        f"labels    {size:,} in {len(found.classes)} classes; features: {inputs.said}",
        f"verdict   {found.reason}",
        f"wrong     {rate}; between {low} and {high} of the labels (95 % interval)",
        f"suspects  {', '.join(kinds) or 'none'}",
    ]
    if note := alike(found.classes):
        lines.append(f"note      {note}")
    if n := len(inputs.reviewed):
        lines.append(f"reviewed  {n:,}, kept; the noise is that before the review")
    if not top:
        return "\n".join(lines)
    rows = harmless(found.table.head(top))
    name = [] if inputs.names is None else [inputs.names[i] for i in rows["index"]]
    cells = [
        *([("name", [_short(text) for text in name])] if name else [("index", rows["index"])]),
        *((head, [_short(x) for x in rows[head]]) for head in ("given", "suggested")),
        ("given is right", [_likely(x) for x in rows["probability"]]),
        ("suggested is right", [_likely(x) for x in rows["confidence"]]),
        ("decision", rows["decision"]),
    ]
    columns = [[head, *map(str, values)] for head, values in cells]
    widths = [max(map(len, column)) for column in columns]
    body = ("  ".join(f"{x:<{w}}" for x, w in zip(row, widths)).rstrip() for row in zip(*columns))
    return "\n".join([*lines, "", *body, ""])


def _share(part: float) -> str:
    """A share as the report has it: a small one with a decimal."""
    return f"{part:.1%}" if 0 < part < 0.1 else f"{part:.0%}"


def _likely(share: float) -> str:
    """A probability as the report has it: never as sure as 0 % or 100 %."""
    if 0.01 <= share <= 0.99:
        return f"{share:.0%}" if 0.1 <= share <= 0.9 else f"{share:.1%}"
    return "<1%" if share < 0.5 else ">99%"


def _short(value: Any, width: int = 40) -> str:
    """A cell that leaves room for others; the end of a path tells more than its beginning."""
    shown = " ".join(str(value).split())
    return shown if len(shown) <= width else f"…{shown[1 - width :]}"

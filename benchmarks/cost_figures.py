"""The table and the figure of `benchmarks.cost`, from its JSON file."""

from __future__ import annotations

import pathlib
import statistics
from typing import Any

MARKS = ("<!-- what RMDNet costs: made by benchmarks.cost -->", "<!-- end of what RMDNet costs -->")
IMAGE, ALT = "cost.png", "last accuracy on digits against seconds of training, by method"
TITLES = {
    "alone": "alone",
    "online": "+ RMDNet, teacher online",
    "stored": "+ RMDNet, teacher stored",
    "corrected": "on corrected labels",
}
STEPS = {"steps": "here", "compile": "here, compiled", "h100": "H100, compiled"}
Rows = list[dict[str, Any]]


def placed(page: str, text: str, marks: tuple[str, str] = MARKS) -> str:
    """The page with the text between its two marks."""
    before, _, rest = page.partition(marks[0])
    _, found, after = rest.partition(marks[1])
    if not found:
        raise SystemExit(f"the page has no lines {marks[0]!r} and {marks[1]!r}")
    return f"{before}{marks[0]}\n\n{text}\n{marks[1]}{after}"


def tables(blocks: Rows, accuracy: float) -> str:
    """Markdown: a row a network and method, then whole runs, with the figure of them."""
    lines = [
        "| where, network, batch | method | alone: ms, images/s | MB | GFLOP | GB "
        "| teacher online: time, MB, FLOP, bytes | teacher stored | corrected labels |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for block in sorted(
        (block for block in blocks if block["part"] in STEPS),
        key=lambda x: [*STEPS].index(x["part"]),
    ):
        name = f"{STEPS[block['part']]}: {block['network']}, {block['batch']}"
        for method, rows in _by_method(block["rows"]).items():
            cells = [_alone(rows["alone"]), *(_beside(rows, name) for name in [*TITLES][1:])]
            lines.append(f"| {' | '.join([name, method, *cells])} |")
    return "\n".join([*lines, "", *_whole(blocks, accuracy)])


def _by_method(rows: Rows) -> dict[str, dict[str, dict]]:
    """{method: {variant: row}}, of rows of one seed."""
    found: dict[str, dict[str, dict]] = {}
    for row in rows:
        found.setdefault(row["method"], {})[row["variant"]] = row
    return found


def _alone(row: dict) -> str:
    """Milliseconds with their spread, images/s, and what the compiler says."""
    time = "–"
    if ms := row.get("ms"):
        time = (
            f"**{ms['median']:.1f}** ({ms['low']:.1f} to {ms['high']:.1f}; n = {ms['n']}), "
            f"{row['images_per_second']:,.0f}"
        )
    work = f"{row['flops'] / 1e9:,.1f} | {row['bytes'] / 1e9:,.2f}"
    return f"{time} | {memory(row) / 2**20:,.0f} | {work}"


def memory(row: dict) -> float:
    """Bytes that a program holds: temporaries and arguments."""
    return row["temporary_bytes"] + row["argument_bytes"]


def ratios(rows: dict[str, dict], variant: str) -> list[float]:
    """A variant's memory, operations and bytes, as multiples of the method's alone."""
    one, two = rows[variant], rows["alone"]
    return [memory(one) / memory(two), *(one[name] / two[name] for name in ("flops", "bytes"))]


def _beside(rows: dict[str, dict], variant: str) -> str:
    """The same of a variant, as multiples."""
    time = rows[variant].get("times")
    first = f"**{time['median']:.2f}** ({time['low']:.2f} to {time['high']:.2f})" if time else "–"
    return ", ".join([first, *(f"{ratio:.2f}" for ratio in ratios(rows, variant))])


def _whole(blocks: Rows, accuracy: float) -> list[str]:
    """The table of whole runs; nothing where there are none."""
    rows = next((block["rows"] for block in blocks if block["part"] == "digits"), [])
    if not rows:
        return []
    teacher = [row for row in rows if row["variant"] == "teacher"]
    once = (
        [row["ends"][-1] for row in teacher],
        *([row[f"{name}_seconds"] for row in teacher] for name in ("feature", "correction")),
    )
    goal = f"{100 * accuracy:.0f}"
    lines = [
        f"Digits, seeds {', '.join(str(row['seed']) for row in teacher)}. Once for all students: "
        "stage 1 takes {}, its features {}, corrected labels {}.".format(*map(_seconds, once)),
        "",
        f"| digits | {' | '.join(TITLES.values())} |",
        "|---|" + "---|" * len(TITLES),
    ]
    for method in dict.fromkeys(row["method"] for row in rows if row["method"]):
        cells = [
            _student([r for r in rows if (r["method"], r["variant"]) == (method, name)], accuracy)
            for name in TITLES
        ]
        lines.append(f"| {' | '.join([method, *cells])} |")
    return [
        *lines,
        "",
        f"Seconds until {goal} % (–: never), of all seconds; then the last accuracy.",
        "",
        f"![{ALT}]({IMAGE})",
        "",
    ]


def _seconds(values: list[float]) -> str:
    return f"{statistics.mean(values):.3g} s"


def reached(row: dict, accuracy: float) -> float | None:
    """Seconds until a run's test accuracy is first that high; None where it never is."""
    return next((end for end, one in zip(row["ends"], row["accuracies"]) if one >= accuracy), None)


def _student(rows: Rows, accuracy: float) -> str:
    """Seconds to the accuracy and in all, last accuracy: means over seeds."""
    if not rows:
        return "–"
    found = [reached(row, accuracy) for row in rows]
    known = [one for one in found if one is not None]
    text = f"{statistics.mean(known):.1f}" if known else "–"
    if known and len(known) < len(rows):
        text += f" ({len(known)} of {len(rows)})"
    total = statistics.mean(row["ends"][-1] for row in rows)
    last = [100 * row["accuracies"][-1] for row in rows]
    deviation = f" ± {statistics.stdev(last):.1f}" if len(last) > 1 else ""
    return f"{text} of {total:.1f}; **{statistics.mean(last):.1f}**{deviation}"


def shares(blocks: Rows) -> list[str]:
    """What the relation terms take of a step with a stored teacher, in a line a network, method."""
    lines = []
    for block in blocks:
        if block["part"] not in STEPS:
            continue
        for method, rows in _by_method(block["rows"]).items():
            held, work, moved = (f"{100 * (ratio - 1):+.2f} %" for ratio in ratios(rows, "stored"))
            time = rows["stored"].get("times")
            took = "–" if not time else "{:+.1f} % ({:+.1f} to {:+.1f}; n = {n})".format(
                *(100 * (time[name] - 1) for name in ("median", "low", "high")), n=time["n"]
            )  # fmt: skip
            lines.append(
                f"relation terms, {block['part']}, {block['network']}, {method}: time {took}, "
                f"operations {work}, bytes {moved}, memory {held}, "
                f"kernels {rows['alone']['kernels']} -> {rows['stored']['kernels']}"
            )
    return lines


def figure(blocks: Rows, path: pathlib.Path) -> None:
    """Last accuracy on digits against a student's seconds; nothing where no run is known."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = next((block["rows"] for block in blocks if block["part"] == "digits"), [])
    if not rows:
        return
    drawn = Figure(figsize=(6.4, 5.4), layout="constrained")
    axes, marks = drawn.subplots(), dict(zip(TITLES, "osD^"))
    methods = [*dict.fromkeys(row["method"] for row in rows if row["method"])]
    for number, method in enumerate(methods):
        points = {name: _point(rows, method, name) for name in TITLES}
        for name, point in points.items():
            axes.plot(*zip(points["alone"], point), color=f"C{number}", lw=0.6, alpha=0.5)
            filled = "none" if name == "alone" else f"C{number}"
            axes.plot(*point, marks[name], color=f"C{number}", markerfacecolor=filled)
    handles = [Line2D([], [], color=f"C{i}", label=method) for i, method in enumerate(methods)]
    handles += [
        Line2D([], [], color="black", marker=marks[name], ls="", label=title,
               markerfacecolor="none" if name == "alone" else "black")
        for name, title in TITLES.items()
    ]  # fmt: skip
    stage = _seconds([row["ends"][-1] for row in rows if row["variant"] == "teacher"])
    axes.set(
        xscale="log", ylabel="last test accuracy, %",
        xlabel=f"seconds of a student's training (stage 1, once for all: {stage})",
    )  # fmt: skip
    for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        ticks("{x:g}")
    axes.grid(alpha=0.3)
    drawn.legend(handles=handles, loc="outside lower center", ncols=3)
    drawn.savefig(path, dpi=110)


def _point(rows: Rows, method: str, variant: str) -> tuple[float, float]:
    """Mean seconds and mean last accuracy, in %, over seeds."""
    found = [row for row in rows if (row["method"], row["variant"]) == (method, variant)]
    seconds = statistics.mean(row["ends"][-1] for row in found)
    return seconds, 100 * statistics.mean(row["accuracies"][-1] for row in found)

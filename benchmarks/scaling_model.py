"""The tables of `benchmarks.scaling`, and what they and the compiler predict for a pod."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.optimize import nnls

from benchmarks import pods
from benchmarks.cost_figures import placed
from rmdnet_jax.app.compile import words

Row = dict[str, Any]
MARKS = {
    name: (f"<!-- {name}: made by benchmarks.scaling -->", f"<!-- end of {name} -->")
    for name in ("steps", "prediction")
}
TOPOLOGY, IMAGES, DIM, CLASSES = "v5e:16x16", 10**8, 2048, 1000
# A v5e chip: docs.cloud.google.com/tpu/docs/v5e, read on 26 November 2026.
FLOPS, BYTES = 197e12, 819e9  # FLOP/s in bfloat16; bytes/s of its memory
EXCHANGED = 51.2e12 / 256  # bytes a second of an all-reduce that a chip takes part in
CHIPS_A_HOST, CORES_A_HOST = 8, 112  # 224 virtual ones


def line(rows: list[Row]) -> tuple[float, float, float]:
    """ms = a + b batch, neither below 0, by least squares of relative errors.

    Returns:
      a, b, the largest relative error.
    """
    batch, took = np.array([(row["batch"], row["ms"]["median"]) for row in rows]).T
    design = np.stack([np.ones_like(batch), batch], 1)
    a, b = nnls(design / took[:, None], np.ones_like(took))[0]
    return a, b, float(np.max(np.abs((a + b * batch) / took - 1)))


def steps(rows: list[Row], where: Row) -> str:
    """Markdown: a row each."""
    lines = [
        "| what grows | | ms a step: median (lowest to highest) | images/s "
        "| MB a device: program "
        "| MB that set-up adds to the first process | seconds to the first batch |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name, ms = row["grows"], row["ms"]
        how = f"{row[name]:,}{', ' + row['pipeline'] if 'pipeline' in row else ''}"
        lines.append(
            f"| {name} | {how} | {ms['median']:,.1f} ({ms['low']:,.1f} to {ms['high']:,.1f}) "
            f"| {1e3 * row['batch'] / ms['median']:,.0f} | {row['program_bytes'] / words.MB:,.0f} "
            f"| {row['data_bytes'] / words.MB:,.0f} | {row['start_seconds']:.1f} |"
        )
    a, b, off = line([row for row in rows if row["grows"] == "batch"])
    count = rows[0]["ms"]["n"]
    lines += [
        "",
        f"A step takes {a:.1f} ms + {b:.3f} ms an image of its batch: "
        f"at most {100 * off:.0f} % off.",
        "",
        f"{count} steps a row, {where['cores']} cores of an {where['processor']}, "
        f"Python {where['python']}, jax {where['jax']}, commit {where['git']}.",
    ]
    return "\n".join([*lines, ""])


def prediction(rows: list[Row], blocks: list[Row]) -> str:
    """Markdown: what the compiler's counts and the rows say of 100 million images."""
    block = next(x for x in blocks if x["topology"] == TOPOLOGY and x["network"] == "resnet50")
    lines = ["| what | ResNet-50, 100 million images, 256 chips |", "|---|---|"]
    for step in (row for row in block["programs"] if row["batch"]):
        lines += [f"| {name} | {value} |" for name, value in of_a_step(step, block["chips"])]
    lines += [f"| {name} | {value} |" for name, value in of_the_data(rows, block["chips"])]
    return "\n".join([*lines, ""])


def of_a_step(step: Row, chips: int) -> Iterator[tuple[str, str]]:
    """Its floor: no step is faster than its slowest part at the chip's ceiling."""
    told = words.exchanged(step)[1]
    parts = {"products": step["flops"] / FLOPS, "memory": step["bytes"] / BYTES,
             "exchange": told / EXCHANGED}  # fmt: skip
    least, count = max(parts.values()), IMAGES / step["batch"]
    said = ", ".join(f"{name} {1e3 * seconds:.0f}" for name, seconds in parts.items())
    stage = words.SAYS[step["name"]]
    yield f"{stage}: ms a step at the ceilings", said
    yield f"{stage}: images a second, at most", f"{step['batch'] / least:,.0f}"
    yield f"{stage}: an epoch, at least", f"{count:,.0f} steps, {count * least / 60:.0f} minutes"
    each = step["batch"] / least / chips * CHIPS_A_HOST
    enough = f"{each:,.0f}: {1e3 * CORES_A_HOST / each:.0f} ms of a core an image"
    yield f"{stage}: images a second that a host of {CORES_A_HOST} cores then decodes", enough


def of_the_data(rows: list[Row], chips: int) -> Iterator[tuple[str, str]]:
    """What is kept by example."""
    yield "labels and rows, on each chip", f"{pods.gb(12 * IMAGES)} GB"
    split = {"a stored teacher's features": DIM, "targets, or a memory": CLASSES}
    for name, width in split.items():
        yield f"{name}, split over the chips", f"{pods.gb(4 * width * IMAGES / chips)} GB a chip"
    hosts = chips // CHIPS_A_HOST
    yield "features for correction, on each chip", f"{pods.gb(4 * DIM * IMAGES)} GB: does not fit"
    files = [row for row in rows if row.get("pipeline") == "streaming"]
    before, after = files[-2:]  # both of more files than are looked into
    more = after["files"] - before["files"]
    slope, held = ((after[name] - before[name]) / more for name in ("start_seconds", "data_bytes"))
    where = f"streamed from a folder, each of {hosts} hosts"
    took = f"{1e6 * slope:.0f} s a million files: at least {slope * IMAGES / 60:.0f} minutes"
    yield f"start, {where}", took
    yield f"names of files, {where}", f"{pods.gb(held * IMAGES)} GB"


def show(page: pathlib.Path, found: Row) -> None:
    """Puts the tables into the page."""
    text = placed(page.read_text(), steps(found["rows"], found["environment"]), MARKS["steps"])
    made = prediction(found["rows"], json.loads(pods.FILE.read_text()))
    page.write_text(placed(text, made, MARKS["prediction"]))

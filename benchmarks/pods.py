"""What an experiment takes of pods that are not here: compiled by `rmdnet compile`, kept, shown.

    python -m benchmarks.pods --network resnet18 --topology v5e:4x4      # minutes a program
    python -m benchmarks.pods --network resnet50 --topology v5e:16x16 --only guided
    python -m benchmarks.pods --show                                     # the tables of the docs

Each chip has the same share of a batch, so the batch grows with the pod. No width of a network is
that of a batch: a collective of all pairs of a batch would be seen by its shape.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks.cost_figures import placed
from rmdnet_jax.app.compile import words
from rmdnet_jax.files import write_json

SHARE = 96  # images of a batch on each chip
PHOTOS = ["--examples", "1281167", "--classes", "1000", "--image", "224x224x3"]
NETWORKS = {  # a config, and what is not here of its data
    "cnn": ["cifar10_sym:small,batch_size={batch},relation_guided.edge.block=1024"],
    "resnet18": ["cifar10_sym:encoder=resnet18,batch_size={batch},relation_guided.edge.block=1024"],
    "resnet50": [
        "image_folder:encoder=resnet50,batch_size={batch},relation_guided.edge.block=1024",
        *PHOTOS,
    ],
}
FILE, SCALING, SPEED = map(
    pathlib.Path, ("docs/scaling.json", "docs/scaling.md", "docs/benchmarks.md")
)
MARKS = {
    name: (f"<!-- {name}: made by benchmarks.pods -->", f"<!-- end of {name} -->")
    for name in ("pods", "programs")
}
Row = dict[str, Any]


def compiled(network: str, topology: str, chips: int, only: str) -> Row:
    """What `rmdnet compile` finds, in a process of its own."""
    config, *data = NETWORKS[network]
    asked = ["--config", config.format(batch=SHARE * chips), "--topology", topology, *data]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "found.json"
        command = [*asked, *(["--only", only] if only else []), "--json", str(path)]
        run = subprocess.run([sys.executable, "-m", "rmdnet_jax.cli", "compile", *command])
        if run.returncode not in (0, 1):  # 1: it does not fit, which is a result
            raise SystemExit(run.returncode)
        return {"network": network, "command": " ".join(asked), **json.loads(path.read_text())}


def merged(known: list[Row], found: Row) -> list[Row]:
    """The blocks with one more, its programs in place of the same of its network and topology."""

    def name(block: Row) -> tuple:
        return block["network"], block["topology"]

    old = next((one for one in known if name(one) == name(found)), {"programs": []})
    new = {row["name"]: row for row in (*old["programs"], *found["programs"])}
    programs = [new[one] for one in words.SAYS if one in new]
    return [one for one in known if name(one) != name(found)] + [{**found, "programs": programs}]


def of_all_pairs(one: Row, batch: int, chips: int) -> bool:
    """Whether a collective has a value for each pair of a batch's images, or of a chip's part."""
    return any(
        counts.count(batch) > 1 or (chips > 1 and {batch, batch // chips} <= {*counts})
        for counts in sizes(one)
    )


def of_the_data(one: Row, examples: int) -> bool:
    """Whether a collective has a value for each example."""
    return any(examples in counts for counts in sizes(one))


def sizes(one: Row) -> list[list[int]]:
    """The sizes of a collective's shapes: "f32[3,4], u8[5]" -> [[3, 4], [5]]."""
    inner = [part.split("]")[0] for part in one["shape"].split("[")[1:]]
    return [[int(n) for n in part.split(",") if n] for part in inner]


def steps(blocks: list[Row]) -> Iterator[tuple[Row, Row]]:
    """(block, program) of all steps, by network, program and number of chips."""
    found = [(block, row) for block in blocks for row in block["programs"] if row["batch"]]
    order = [*NETWORKS], [*words.SAYS]
    yield from sorted(
        found,
        key=lambda x: (
            order[0].index(x[0]["network"]),
            order[1].index(x[1]["name"]),
            x[0]["topology"].partition(":")[0] == "h100",
            x[0]["chips"],
        ),
    )


def pods(blocks: list[Row]) -> str:
    """Markdown: a row a step and pod."""
    lines = [
        "| network, step | chips, batch | GB a chip: all, temporaries | fits a batch of "
        "| collectives a step: number, MB | the largest, MB | of all pairs, of the data "
        "| GFLOP a chip | GB moved a chip |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for block, row in steps(blocks):
        who = f"{block['network']}, {words.SAYS[row['name']]}"
        where = f"{block['topology']}, {row['batch']:,}"
        if "collectives" not in row:
            lines.append(f"| {who} | {where} | {gb(row['total_bytes'])}: does not fit |||||||")
            continue
        rows, chips = row["collectives"], block["chips"]
        number, told = words.exchanged(row)
        pairs = sum(of_all_pairs(one, row["batch"], chips) for one in rows)
        data = sum(of_the_data(one, block["data"]["examples"]) for one in rows)
        most = f"{rows[0]['bytes'] / words.MB:.1f}" if rows else "–"
        lines.append(
            f"| {who} | {where} | {gb(row['total_bytes'])}, {gb(row['temporary_bytes'])} "
            f"| {row['batch_that_fits']:,} | {number}, {told / words.MB:.1f} | {most} "
            f"| {pairs}, {data} | {row['flops'] / 1e9:,.0f} | {gb(row['bytes'])} |"
        )
    return "\n".join([*lines, ""])


def gb(size: float) -> str:
    """Bytes as gigabytes."""
    return f"{size / words.GB:.2f}"


def programs(blocks: list[Row]) -> str:
    """Markdown: every program of ResNet-18 for two pods."""
    lines = [
        "| program | chips | kernels | MB: arguments, temporaries | collectives, MB | in one |",
        "|---|---|---|---|---|---|",
    ]
    for block in sorted(blocks, key=lambda one: one["chips"]):
        if block["network"] != "resnet18" or block["topology"] not in ("v5e:2x2", "v5e:4x4"):
            continue
        for row in block["programs"]:
            number, told = words.exchanged(row)
            held = (f"{row[f'{name}_bytes'] / words.MB:,.1f}" for name in ("argument", "temporary"))
            batch = f", batch {row['batch']:,}" if row["batch"] else ""
            lines.append(
                f"| {words.SAYS[row['name']]} | {block['topology']} | {row['kernels']:,} "
                f"| {', '.join(held)} | {number}, {told / words.MB:.1f} | {row['unit']}{batch} |"
            )
    return "\n".join([*lines, ""])


def show(blocks: list[Row]) -> None:
    """Puts the tables into the pages."""
    for page, name, table in ((SCALING, "pods", pods), (SPEED, "programs", programs)):
        page.write_text(placed(page.read_text(), table(blocks), MARKS[name]))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=NETWORKS, default="resnet18")
    parser.add_argument("--topology", help="as `rmdnet compile` takes it")
    parser.add_argument("--only", default="", help="some programs alone: modeling,guided")
    parser.add_argument("--show", action="store_true", help="write the tables into the docs")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # no device of this machine is touched
    known = json.loads(FILE.read_text()) if FILE.exists() else []
    if args.topology:
        chips = count(args.topology)
        known = merged(known, compiled(args.network, args.topology, chips, args.only))
        write_json(FILE, known)
    if args.show:
        show(known)


def count(topology: str) -> int:
    """The chips of a topology, by its name: v5e:4x4 -> 16."""
    product = 1
    for one in topology.partition(":")[2].split("x"):
        product *= int(one)
    return product


if __name__ == "__main__":
    main()

"""Ours against the PyTorch reference, in turns, in one run on one machine.

    python -m benchmarks.speed                                  # every network and case
    python -m benchmarks.speed --networks cnn --cases ce,epoch  # some of them

Each rival works in a process of its own, in turns with the others, so that whatever else the
machine does meets all. On a CPU there are two of PyTorch: as installed, and with the settings of
malloc that our command makes. Seconds are medians over the turns, with the lowest and the highest;
a ratio is the median of the turns' ratios. Writes speed.json, speed.md and speed.png.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import itertools
import json
import multiprocessing
import os
import pathlib
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

NETWORKS = ("cnn", "digits", "resnet18", "resnet34", "wrn28_2")
ENCODER, SIDE = {"digits": "cnn"}, {"digits": 8}  # the CNN on tiny images
CASES = ("simsiam", "online", "stored", "ce", "evaluation", "epoch", "relation")
RIVALS = ("ours", "theirs", "kept")
# What `rmdnet_jax.cpu` sets, as glibc reads it at a start.
KEPT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
}
BATCH = {
    "cpu": {"cnn": 128, "digits": 128, "resnet18": 16, "resnet34": 16, "wrn28_2": 16},
    "gpu": dict.fromkeys(NETWORKS, 512),
}
RELATIONS = (1024, 4096, 16384)  # examples, of 512 dimensions
LEAST = 0.5  # seconds of a turn: shorter steps are repeated, and averaged
STEPS = 8  # batches in the measured epoch
TEST = 512  # images in the measured evaluation
DESCRIPTION = {
    "simsiam": "SimSiam step, two views augmented",
    "online": "CE + RMDNet step, teacher online",
    "stored": "CE + RMDNet step, teacher stored",
    "ce": "CE step",
    "evaluation": f"evaluation of {TEST} images",
    "relation": "edge loss and gradient, 512 dimensions",
    "epoch": f"epoch of {STEPS} online steps and an evaluation, data to metrics",
}


def work(pipe: Any, rival: str, began: float, cache: str, case: str, arguments: tuple) -> None:
    """A process of one rival: True from `pipe` asks for a step's seconds, False for the rest."""
    os.environ |= {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "RMDNET_CACHE": cache,
        "JAX_COMPILATION_CACHE_DIR": f"{cache}/compiled",
    }
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # progress bars
    module = importlib.import_module("benchmarks.ours" if rival == "ours" else "benchmarks.theirs")
    if rival == "ours":
        module.start()
    since, count = None, 0

    def turn() -> bool:
        """Called before each repetition; whether there is to be one."""
        nonlocal since, count
        if since is not None:
            count, seconds = count + 1, time.perf_counter() - since
            if seconds < LEAST:
                return True
            pipe.send({"seconds": seconds / count, "since_start": time.time() - began})
        more, count, since = pipe.recv(), 0, time.perf_counter()
        return more

    run = {"ceiling": module.ceiling, "relation": module.related}.get(
        case, functools.partial(module.run, case)
    )
    known = run(*arguments, turn)
    memory = module.peak_memory() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pipe.send({**known, "peak_bytes": memory})


class Rival:
    """A started process of one rival."""

    def __init__(self, name: str, cache: str, case: str, arguments: tuple):
        context = multiprocessing.get_context("spawn")
        self.name, self.first, (self.pipe, there) = name, 0.0, context.Pipe()
        self.process = context.Process(
            target=work, args=(there, name, time.time(), cache, case, arguments), daemon=True
        )
        environment = KEPT if name == "kept" else {}
        os.environ |= environment
        self.process.start()
        for variable in environment:
            del os.environ[variable]
        there.close()

    def turn(self, more: bool = True) -> dict:
        """Lets it take a turn, or end; returns its answer."""
        try:
            self.pipe.send(more)
            return self.pipe.recv()
        except (EOFError, BrokenPipeError):
            raise SystemExit(
                f"benchmarks.speed: {self.name!r} ended early, status {self.process.exitcode}"
            ) from None


@contextlib.contextmanager
def started(names: tuple, cache: str, case: str, arguments: tuple) -> Iterator[list[Rival]]:
    """The rivals, started one after the other, their first turns taken."""
    rivals = []
    try:
        for name in names:
            rivals.append(Rival(name, cache, case, arguments))
            rivals[-1].first = rivals[-1].turn()["since_start"]
        yield rivals
    finally:
        for rival in rivals:
            rival.process.terminate()


def compare(names: tuple, cache: str, turns: int, case: str, arguments: tuple) -> dict[str, Any]:
    """A case's figures: each rival's seconds, and the ratios of speeds, above 1: ours is faster."""
    with started(names, cache, case, arguments) as rivals:
        for rival in rivals:
            rival.turn()  # the second turn still warms up
        seconds = [[rival.turn()["seconds"] for rival in rivals] for _ in range(turns)]
        results = {
            rival.name: {
                "seconds": spread(column),
                "first_step_seconds": rival.first,
                **rival.turn(False),
            }
            for rival, column in zip(rivals, zip(*seconds))
        }
    ratios = {"theirs": "ratio", "kept": "ratio_kept"}
    for place, name in enumerate(names[1:], start=1):
        results[ratios[name]] = spread([turn[place] / turn[0] for turn in seconds])
    return results


def spread(values: list[float] | tuple[float, ...]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
    }


def measure(networks: tuple, cases: tuple, turns: int, batch: int) -> Iterator[dict[str, Any]]:
    """The ceiling, then each network's cases; ours is started twice, first without programs."""
    with tempfile.TemporaryDirectory() as folder:
        top = compare(RIVALS[:2], folder, turns, "ceiling", ())
        yield {"case": "ceiling", **top}
        kind = "cpu" if top["ours"]["platform"] == "cpu" else "gpu"
        names = RIVALS if kind == "cpu" else RIVALS[:2]
        for network in networks:
            size = batch or BATCH[kind][network]
            data = f"{folder}/{network}.npz"
            write_data(data, STEPS * size, SIDE.get(network, 32))
            for case in (case for case in cases if case != "relation"):
                programs = f"{folder}/{network}-{case}"  # each case starts without any
                encoder = ENCODER.get(network, network)
                arguments = (data, encoder, size, 10_000)  # epochs: more than are run
                cold = Rival("ours", programs, case, arguments)
                seconds = cold.turn()["since_start"]
                cold.process.terminate()
                images = {"evaluation": TEST, "epoch": STEPS * size}.get(case, size)
                yield {
                    "network": network, "case": case, "batch": size, "images": images,
                    "first_step_seconds_cold": seconds,
                    **compare(names, programs, turns, case, arguments),
                }  # fmt: skip
        for size, form in itertools.product(
            RELATIONS if "relation" in cases else (), ("plain", "blocks")
        ):
            yield {
                "network": form,
                "case": "relation",
                "batch": size,
                "images": size,
                **compare(names, folder, turns, "relation", (form, size, 512)),
            }


def write_data(path: str, count: int, side: int, tests: int = TEST) -> None:
    """Random images of three channels, of ten classes: so many to train on, and to test."""
    random, arrays = np.random.default_rng(0), {}
    for part, size in (("", count), ("test_", tests)):
        arrays[f"{part}images"] = random.integers(0, 256, (size, side, side, 3), np.uint8)
        arrays[f"{part}labels"] = np.arange(size, dtype=np.uint8) % 10
    np.savez(path, **arrays)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    top = max(rows[0][rival]["flops"] / rows[0][rival]["seconds"]["low"] for rival in RIVALS[:2])
    lines = [
        "| network, batch | case | ours, images/s | PyTorch, images/s | ratio (lowest to highest) "
        "| ratio to PyTorch with memory kept "
        "| ours, share of the matrix ceiling "
        "| peak MB, ours / PyTorch | first step, s: cold / cached / PyTorch |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows[1:]:
        ours, theirs, ratio = row["ours"], row["theirs"], row["ratio"]
        rates = [row["images"] / rival["seconds"]["median"] for rival in (ours, theirs)]
        cold = f"{row['first_step_seconds_cold']:.1f}" if "first_step_seconds_cold" in row else "–"
        share = f"{ours['flops'] / ours['seconds']['median'] / top:.2f}" if "flops" in ours else "–"
        kept = f"{row['ratio_kept']['median']:.2f}" if "ratio_kept" in row else "–"
        lines.append(
            f"| {row['network']}, {row['batch']} | {DESCRIPTION[row['case']]} "
            f"| {rates[0]:,.0f} | {rates[1]:,.0f} "
            f"| **{ratio['median']:.2f}** ({ratio['low']:.2f} to {ratio['high']:.2f}) "
            f"| {kept} | {share} "
            f"| {ours['peak_bytes'] / 2**20:,.0f} / {theirs['peak_bytes'] / 2**20:,.0f} "
            f"| {cold} / {ours['first_step_seconds']:.1f} / {theirs['first_step_seconds']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def figure(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """The ratios with their spread, by case and network."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, 0.32 * len(rows) + 1), layout="constrained")
    axes = drawing.subplots()
    for place, row in enumerate(rows[:0:-1]):
        ratio = row["ratio"]
        axes.barh(
            place, ratio["median"], color=f"C{(*NETWORKS, 'plain', 'blocks').index(row['network'])}"
        )
        if "ratio_kept" in row:
            axes.plot(row["ratio_kept"]["median"], place, "k.")
        axes.plot([ratio["low"], ratio["high"]], [place, place], color="black", linewidth=1)
    axes.set_yticks(
        range(len(rows) - 1),
        [f"{row['network']} {row['batch']}: {row['case']}" for row in rows[:0:-1]],
    )
    axes.margins(y=0.01)
    axes.axvline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set_xlabel(
        "speed, ours / PyTorch reference (right of 1: ours is faster)\n"
        "line: lowest to highest; dot: against PyTorch with memory kept"
    )
    drawing.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    some = {"networks": NETWORKS, "cases": CASES}
    for name, known in some.items():
        parser.add_argument(
            f"--{name}", default=",".join(known), help=f"comma-separated, of {', '.join(known)}"
        )
    parser.add_argument("--turns", type=int, default=5, help="measured turns of each rival")
    parser.add_argument(
        "--batch",
        type=int,
        default=0,
        help="images in a step; 0: 512 on an accelerator, less on a CPU",
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/speed"))
    args = parser.parse_args()
    chosen = {name: tuple(getattr(args, name).split(",")) for name in some}
    for name, known in some.items():
        if unknown := set(chosen[name]) - set(known):
            parser.error(
                f"--{name} must be out of {', '.join(known)}, got {', '.join(sorted(unknown))}"
            )
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for row in measure(chosen["networks"], chosen["cases"], args.turns, args.batch):
        rows.append(row)
        print(
            f"{row.get('network', ''):10s} {row['case']:10s} ratio {row['ratio']['median']:.2f}",
            f"kept {row['ratio_kept']['median']:.2f}" if "ratio_kept" in row else "",
            flush=True,
        )
        (args.out / "speed.json").write_text(json.dumps(rows, indent=1) + "\n")
    (args.out / "speed.md").write_text(table(rows))
    figure(rows, args.out / "speed.png")
    print(table(rows))


if __name__ == "__main__":
    main()

"""What a compiler says of a program that it has made for a chip, and what follows from it.

Sizes are bytes a chip. A loop is counted once round.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

# One line of an optimised program: name, type, operation, and what it reads.
LINE = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")
NAME, SHAPE = re.compile(r"%([\w.\-]+)"), re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
FREE = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast")
LOOPS = ("while", "call")  # what they do stands in a computation of its own
INNER = re.compile(r"\b(?:body|to_apply)=%?([\w.\-]+)")
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
TOO_MUCH = re.compile(  # as libtpu says it of a program, or of one array in it
    r"(?:Used ([\d.]+)([KMGT]?) of|\(([\d.]+)([KMGT]?)\) exceeds available HBM)"
)
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Collective(NamedTuple):
    """What chips tell each other at once."""

    kind: str  # out of KINDS
    shape: str  # of what a chip has afterwards
    bytes: int
    times: int  # in a program


class Facts(NamedTuple):
    """What one chip holds and does for a program."""

    arguments: int
    temporaries: int
    others: int  # outputs that take no argument's place, and the program itself
    flops: float
    bytes: float  # read and written
    kernels: int
    collectives: list[Collective]


def facts(program: Any, flops: float | None = None) -> Facts:
    """What a compiled program says; `flops` where they were counted before it.

    A compiler without its chip may give no analysis: bytes are those of all kernels then.
    """
    memory, cost, text = (
        program.memory_analysis(), program.cost_analysis() or {}, program.as_text()
    )  # fmt: skip
    moved = kernels(text)
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Facts(
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        others=max(outputs, 0) + memory.generated_code_size_in_bytes,
        flops=cost.get("flops", 0.0) if flops is None else flops,
        bytes=cost.get("bytes accessed", sum(moved)),
        kernels=len(moved),
        collectives=exchanged(text),
    )


def kernels(text: str) -> list[float]:
    """Bytes that each kernel of an optimised program reads and writes, from its text."""
    parts = dict(_computations(text))
    return [*_kernels(parts, "ENTRY")]


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
    """(name, lines) of each part of a program; the one that is called is `ENTRY`."""
    name, lines = "", []
    for line in text.splitlines():
        if line.endswith("{") and not line[0].isspace():
            name, lines = line.split(" ")[0].lstrip("%"), []
        elif line.startswith("}"):
            yield name, lines
        else:
            lines.append(line)


def _kernels(parts: dict[str, list[str]], name: str) -> Iterator[float]:
    sizes: dict[str, float] = {}
    for found in filter(None, map(LINE.match, parts.get(name, []))):
        own, kind, operation, rest = found.groups()
        sizes[own] = size(kind)
        if operation in LOOPS and (inner := INNER.search(rest)):
            yield from _kernels(parts, inner[1])
        elif operation not in FREE:
            read = NAME.findall(rest.split("), ")[0])
            yield sizes[own] + sum(sizes.get(one, 0.0) for one in read)


def size(kind: str) -> float:
    """Bytes of a type, or of a tuple of types.

    Example:
      >>> from rmdnet_jax.app.compile.facts import size
      >>> size("(bf16[8,4]{1,0:T(8,128)}, pred[8]{0})")
      72.0
    """
    return sum(map(_size, SHAPE.findall(kind)))


def _size(shape: tuple[str, str]) -> float:
    bits, sizes = shape
    count = math.prod([int(n) for n in sizes.split(",") if n])
    return count * (1.0 if bits == "pred" else int(re.findall(r"\d+", bits)[0]) / 8)


def exchanged(text: str) -> list[Collective]:
    """The collectives of an optimised program, the largest first.

    The text of a TPU's program repeats a collective in each fusion that it overlaps with: they are
    told apart by channel and chain.
    """
    seen: dict[tuple, tuple[str, str, int]] = {}
    for line in text.splitlines():
        found = LINE.match(line)
        if not found or found[3].removesuffix("-start") not in KINDS:
            continue
        kind, shapes = found[3].removesuffix("-start"), SHAPE.findall(found[2])
        if found[3].endswith("-start"):
            asked = len(NAME.findall(found[4].split(")")[0]))
            shapes = shapes[asked : 2 * asked] or shapes  # operands may stand before what it gives
        told = ", ".join(f"{bits}[{sizes}]" for bits, sizes in shapes)
        channel = re.search(r"channel_id=(\d+)", line)
        chain = re.search(r'chain_id="(\d+)"', line)
        key = (kind, channel[1] if channel else found[1], chain and chain[1], told)
        seen[key] = kind, told, int(sum(map(_size, shapes)))
    counts = collections.Counter(seen.values())
    rows = [Collective(*one, times=times) for one, times in counts.items()]
    return sorted(rows, key=lambda row: -row.bytes)


def too_much(error: str) -> int | None:
    """The bytes that a program needs, where a compiler refused it for want of memory.

    Example:
      >>> from rmdnet_jax.app.compile.facts import too_much
      >>> too_much("RESOURCE_EXHAUSTED: Ran out of memory. Used 20.00G of 15.75G hbm. Exceeded ...")
      21474836480
    """
    if not (found := TOO_MUCH.search(error)):
        return None
    size, unit = (one for one in found.groups() if one is not None)
    return int(float(size) * UNITS[unit])


def largest_batch(batch: int, chips: int, memory: int, fixed: int, growing: int) -> int:
    """The batch that would fit, `batch (memory - fixed) / growing`.

    All that is temporary is taken to grow as the batch. Some of it does not; what relations of a
    batch take in blocks grows faster, until a block is full. So it is a guide, the less the farther
    away: compile again with it.

    Args:
      batch: that was compiled, over all chips.
      chips: that share it; what comes back is divisible by them.
      memory: of a chip.
      fixed: what a chip holds whatever the batch.
      growing: what it holds because of this batch.

    Example:
      >>> from rmdnet_jax.app.compile.facts import largest_batch
      >>> largest_batch(512, 4, memory=1000, fixed=200, growing=100)
      4096
    """
    room = max(memory - fixed, 0)
    return int(batch * room / max(growing, 1)) // chips * chips

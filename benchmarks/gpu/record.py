"""One JSON a part: what it ran on, and a row a case, written as each ends."""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from rmdnet_jax import sharding
from rmdnet_jax.app import report


class Record:
    """The file of one part."""

    def __init__(self, path: str, part: str):
        self.path, self.began = pathlib.Path(path), time.perf_counter()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        about = report.environment(sharding.mesh()) | {"flags": os.environ.get("XLA_FLAGS", "")}
        self.found: dict[str, Any] = {"part": part, "environment": about, "rows": []}

    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def add(self, **row: Any) -> None:
        self.found["rows"].append(row)
        print(f"{self.seconds():6.1f} s  {json.dumps(row)}", flush=True)
        self.path.write_text(json.dumps(self.found, indent=1) + "\n")


def median(call: Callable, warm: int = 3, times: int = 20) -> dict[str, float]:
    """Milliseconds of a call, after `warm` calls: median, lowest, highest."""
    seconds = []
    for number in range(warm + times):
        start = time.perf_counter()
        jax.block_until_ready(call())
        if number >= warm:
            seconds.append(1e3 * (time.perf_counter() - start))
    spread = {"ms": statistics.median(seconds), "low": min(seconds), "high": max(seconds)}
    return {**spread, "n": times}

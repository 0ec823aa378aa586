"""Processes that decode images: the threads of one process wait for each other.

A worker imports no JAX. It reads requests from its standard input, and ends when that does: with
the process that started it, however that ends. `multiprocessing` would import the user's program
again in each.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rmdnet_jax.data.images import THREADS, unpacked
from rmdnet_jax.errors import UserError, first_line

Encodings = Sequence[Path | bytes]
_own = threading.local()


@cache
def pool(workers: int) -> ThreadPoolExecutor:
    """Threads that decode, or that have a process each; they last as long as this process."""

    def start() -> None:
        _own.process, _own.here = None, not workers

    return ThreadPoolExecutor(workers or THREADS, "decode", start)


os.register_at_fork(after_in_child=pool.cache_clear)  # a fork has none of these threads


def unpack(encoded: Encodings, found: np.ndarray) -> list[str]:
    """Fills found [n, ...], in a thread of `pool`; why each image cannot be read, or ""."""
    if _own.here:
        return _unpack(encoded, found)
    process = _own.process = _own.process or _started()
    try:
        pickle.dump((found.shape, encoded), process.stdin)
        process.stdin.flush()
        why, found[...] = pickle.load(process.stdout)
        return why
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        _own.process = None  # what is asked next starts another
        process.communicate()
        text = f"a process that decodes images ended with status {process.returncode}"
        raise UserError(f"{text}: start again, perhaps with fewer data.workers") from None


def _unpack(encoded: Encodings, found: np.ndarray) -> list[str]:
    def why(place: np.ndarray, one: Path | bytes) -> str:
        try:
            place[...] = unpacked(one, found.shape[1:])[0]
        except Exception as error:  # a damaged file raises anything
            return first_line(error)
        return ""

    return [*map(why, found, encoded)]


def _started() -> Any:
    path = os.pathsep.join(map(str, sys.path))
    env = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}  # no module of the folder here
    command = [sys.executable, "-W", "ignore", "-m", "rmdnet_jax.data.workers"]
    try:
        return subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        text = f"a process that decodes images cannot start ({first_line(error)})"
        raise UserError(f"{text}: set fewer data.workers") from error


def serve(requests: io.BufferedReader, answers: io.BufferedWriter) -> None:
    """Decodes what is asked for, until nothing is."""
    while requests.peek(1):
        shape, encoded = pickle.load(requests)
        found = np.empty(shape, np.uint8)
        pickle.dump((_unpack(encoded, found), found), answers)
        answers.flush()


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # the process that asks decides
        signal.signal(number, signal.SIG_IGN)
    try:
        with open(0, "rb") as asked, open(1, "wb") as told:
            serve(asked, told)
    except (BrokenPipeError, EOFError):  # that process is gone
        os._exit(0)

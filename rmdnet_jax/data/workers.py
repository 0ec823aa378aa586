"""Processes that decode images: the threads of one process wait for each other.

A worker imports no JAX. It reads requests from its standard input, and ends when that does: with
the process that started it, however that ends.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np

from rmdnet_jax.data.images import THREADS, unpacked
from rmdnet_jax.errors import UserError, first_line

Encodings = Sequence[Path | bytes]
LENGTH = 4  # bytes that tell how long an error is
_own = threading.local()


@cache
def pool(workers: int) -> ThreadPoolExecutor:
    """Threads that decode, or that have a worker each; they last as long as this process."""

    def start() -> None:
        _own.worker = Worker() if workers else None

    return ThreadPoolExecutor(workers or THREADS, "decode", start)


def unpack(encoded: Encodings, found: np.ndarray) -> Iterator[str]:
    """Fills found [n, ...], in a thread of `pool`; yields why an image cannot be read, or ""."""
    worker = getattr(_own, "worker", None)
    return worker.unpack(encoded, found) if worker else _unpack(encoded, found)


def _unpack(encoded: Encodings, found: np.ndarray) -> Iterator[str]:
    for place, one in zip(found, encoded):
        try:
            place[...] = unpacked(one, found.shape[1:])[0]
        except Exception as error:  # a damaged file raises anything
            yield first_line(error)
        else:
            yield ""


class Worker:
    """A process that decodes, for one thread."""

    def __init__(self):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-W", "ignore", "-m", "rmdnet_jax.data.workers"]
        self._process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        weakref.finalize(self, _end, self._process)

    def unpack(self, encoded: Encodings, found: np.ndarray) -> Iterator[str]:
        """See the module's; `found` is contiguous."""
        send = cast(io.BufferedWriter, self._process.stdin)
        receive = cast(io.BufferedReader, self._process.stdout)
        try:
            pickle.dump((found.shape[1:], encoded), send)
            send.flush()
            for place in found:
                why = receive.read(int.from_bytes(_exactly(receive, LENGTH), "big"))
                if not why and receive.readinto(place.reshape(-1)) < place.size:
                    raise EOFError
                yield why.decode()
        except (EOFError, BrokenPipeError):
            _own.worker = Worker()  # for what is asked next
            text = f"a process that decodes images ended with status {self._process.wait()}"
            raise UserError(f"{text}: start again, perhaps with fewer data.workers") from None


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def _exactly(stream: io.BufferedReader, count: int) -> bytes:
    if len(found := stream.read(count)) < count:
        raise EOFError
    return found


def serve(requests: io.BufferedReader, answers: io.BufferedWriter) -> None:
    """Decodes what is asked for, until nothing is."""
    while requests.peek(1):
        shape, encoded = pickle.load(requests)
        found = np.empty((len(encoded), *shape), np.uint8)
        for place, why in zip(found, _unpack(encoded, found)):
            text = why.encode("utf-8", "replace")
            answers.write(len(text).to_bytes(LENGTH, "big") + text)
            if not why:
                answers.write(place.data)
        answers.flush()


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # the process that asks decides
        signal.signal(number, signal.SIG_IGN)
    try:
        with open(0, "rb") as asked, open(1, "wb") as told:
            serve(asked, told)
    except (BrokenPipeError, EOFError):  # that process is gone
        os._exit(0)

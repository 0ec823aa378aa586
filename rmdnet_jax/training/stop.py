"""How a run is asked to stop: by a signal to this process, or to any that trains with it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class Stopped(Exception):
    """Raised after SIGTERM or SIGINT, once the state is saved."""


@contextlib.contextmanager
def on_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, in the main thread; a second one acts as usual."""
    event, old = threading.Event(), {}

    def handle(number: int, frame: Any) -> None:
        event.set()
        for which, before in old.items():
            signal.signal(which, before)

    if threading.current_thread() is threading.main_thread():
        for which in (signal.SIGTERM, signal.SIGINT):
            old[which] = signal.signal(which, handle)
    try:
        yield event
    finally:
        for which, before in old.items():
            signal.signal(which, before)


def agreed(stop: threading.Event, epoch_ends: bool) -> bool:
    """Whether to stop: at once, or, of several processes, together at the end of an epoch."""
    if jax.process_count() == 1:
        return stop.is_set()
    return epoch_ends and bool(np.any(multihost_utils.process_allgather(np.array(stop.is_set()))))

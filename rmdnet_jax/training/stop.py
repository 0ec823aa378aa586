"""How a run is asked to stop: by a signal to this process, or to any that trains with it."""

from __future__ import annotations

import contextlib
import importlib.machinery
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

# Ctrl-C, a scheduler, a terminal that is closed
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Stopped(KeyboardInterrupt):
    """Raised after a signal; where it says so, once the state is saved.

    As Ctrl-C it is no `Exception`: what goes on after errors does not go on after it.
    """

    def __init__(self, text: str, number: int = signal.SIGTERM):
        super().__init__(text)
        self.number = number
        self.status = 128 + number  # 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP


class Asked(threading.Event):
    """An event that a signal sets."""

    number: int = signal.SIGTERM  # of the signal


@contextlib.contextmanager
def handling(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Calls `handle` at the first signal, in the main thread; a second one acts as before.

    SIGHUP stays ignored where it was, as `nohup` asks.
    """
    old: dict[int, Any] = {}

    def first(number: int, frame: Any) -> None:
        for which, before in old.items():
            signal.signal(which, before)
        handle(number, frame)

    if threading.current_thread() is threading.main_thread():
        for which in SIGNALS:
            before = signal.getsignal(which)
            if which != getattr(signal, "SIGHUP", None) or before != signal.SIG_IGN:
                old[which] = before
                signal.signal(which, first)
    try:
        yield
    finally:
        for which, before in old.items():
            signal.signal(which, before)


@contextlib.contextmanager
def on_stop() -> Iterator[Asked]:
    """An event that the first signal sets."""
    event = Asked()

    def handle(number: int, frame: Any) -> None:
        event.number = number
        event.set()

    with handling(handle):
        yield event


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Within it a signal raises `Stopped`: for work that is short, or that is done again.

    In a destructor, say, Python drops what is raised: then it is raised once more. While a native
    module is loaded a signal waits. Native code may make another error of it: what ends so was
    stopped as well.
    """
    told, stopped, waits = sys.unraisablehook, [], []

    def handle(number: int, frame: Any) -> None:
        if _loading(frame):
            return again(number, 0.05)
        stopped.append(Stopped("", number))
        raise stopped[-1]

    def again(number: int, seconds: float) -> None:
        signal.signal(number, handle)
        waits.append(threading.Timer(seconds, signal.raise_signal, [number]))
        waits[-1].start()

    def dropped(unraisable: Any) -> None:
        if not isinstance(stop := unraisable.exc_value, Stopped):
            return told(unraisable)
        again(stop.number, 0.5)

    with handling(handle):
        sys.unraisablehook = dropped
        try:
            yield
        except Exception as error:
            if not stopped:
                raise
            raise stopped[-1] from error
        finally:
            sys.unraisablehook = told
            for wait in waits:
                wait.cancel()


def _loading(frame: Any) -> bool:
    """Whether a native module is being loaded: what is raised in it may abort the process."""
    while frame:
        if isinstance(frame.f_locals.get("self"), importlib.machinery.ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False


def agreed(stop: Asked, epoch_ends: bool) -> bool:
    """Whether to stop: at once, or, of several processes, together at the end of an epoch."""
    import jax  # commands are handled before it is imported
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return stop.is_set()
    if not epoch_ends:
        return False
    numbers = multihost_utils.process_allgather(np.array(stop.number if stop.is_set() else 0))
    if np.any(numbers):
        stop.number = int(np.max(numbers))  # the signal of another process, too
    return bool(np.any(numbers))

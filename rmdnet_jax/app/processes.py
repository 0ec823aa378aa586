"""Several processes that train together: they meet, watch each other, and end together.

Each gives a sign of life every second through the service that JAX's processes share. One that ends
early tells the others why. They end within 10 seconds, or 40 where one fell silent. Before they
read data they compare their configs, and what lies at the paths that these name.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import pathlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import rmdnet_jax
from rmdnet_jax.app import schema
from rmdnet_jax.app import workdir as directory
from rmdnet_jax.app.command import say
from rmdnet_jax.errors import UserError, first_line
from rmdnet_jax.files import place
from rmdnet_jax.training.stop import at_once

EVERY, SILENT, GRACE = 1.0, 30.0, 5.0  # seconds
DAY_MS = 24 * 3600 * 1000  # another host may read for long; the watch sees one that has ended
_WATCHES: list[Watch] = []
ALIVE, ENDED, SAID = (f"rmdnet_jax/{name}/" for name in ("alive", "ended", "said"))
ABSENT = "absent"


def join(initialize: Callable) -> None:
    """Meets the other hosts' processes; raises `UserError` where no cluster answers.

    JAX finds a cluster by itself. Elsewhere `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` tell it.
    """
    import jax

    # Else the runtime aborts each process, with pages of text, when any but the first has ended.
    jax.config.update("jax_enable_recoverability", True)
    told = {name: os.environ.get(f"JAX_{name.upper()}") for name in ("num_processes", "process_id")}
    try:
        initialize(**{name: int(value) for name, value in told.items() if value})
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise UserError(
            "--multihost needs a cluster that jax.distributed.initialize() finds by itself, "
            f"got: {text}"
        ) from None


def check(config: schema.Config, workdir: str) -> None:
    """Raises `UserError` unless all processes have the same config, files and workdir.

    Paths may differ from host to host, where the same lies there.

    Args:
      config: resolved.
      workdir: of the run, on a file system that all share.
    """
    import jax

    flat = schema.flatten(config.to_dict())
    places = {name: flat.pop(name, "") for name in directory.PLACES}
    versions = {"rmdnet_jax": rmdnet_jax.__version__, "jax": jax.__version__}
    agree("config", {**flat, **versions})
    found = {name: content(place(path, name)) for name, path in places.items() if path}
    for name in ("config.json", "data.json"):
        found[f"the workdir's {name}"] = content(place(workdir, "workdir") / name)
    agree("files", found)


def agree(what: str, fields: Mapping[str, Any]) -> None:
    """Raises `UserError`, which names host and field, unless all processes have the same fields.

    Values are compared by their text. A process that runs alone agrees.

    Args:
      what: they are, a name that is used once in a run.
      fields: of this process.
    """
    if (state := _shared()) is None:
        return
    own = socket.gethostname(), {name: str(value) for name, value in fields.items()}
    state.client.key_value_set(f"{SAID}{what}/{state.process_id}", json.dumps(own))
    for other in range(1, state.num_processes) if state.process_id == 0 else (0,):
        said = json.loads(state.client.blocking_key_value_get(f"{SAID}{what}/{other}", DAY_MS))
        (main, right), (host, left) = (own, said) if other else (said, own)
        rows = [
            f"{name} is {left.get(name, ABSENT):.40}, not {right.get(name, ABSENT):.40}"
            for name in sorted(left.keys() | right.keys())
            if left.get(name) != right.get(name)
        ]
        if rows:
            who = f"process {other or state.process_id} on host {host}"
            than = f"process 0 on {main}: {'; '.join(rows)}"
            raise UserError(f"{who} differs in its {what} from {than}")


def content(path: pathlib.Path) -> str:
    """A hash of a file's content, or of the names and sizes of all files in a folder."""
    if not path.is_dir():
        try:
            with path.open("rb") as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()[:12]
        except OSError:  # who reads it says why
            return ABSENT
    found = hashlib.sha256()
    for folder, inner, names in os.walk(path):
        inner.sort()
        for name in sorted(names):
            file, size = os.path.join(folder, name), -1
            with contextlib.suppress(OSError):
                size = os.stat(file).st_size
            found.update(f"{os.path.relpath(file, path)} {size}\n".encode(errors="replace"))
    return found.hexdigest()[:12]


class Watch:
    """What this process knows of the others."""

    def __init__(self, client: Any, own: int, count: int):
        self.client, self.own, self.count = client, own, count
        self.seen = {i: ("", time.monotonic()) for i in range(count) if i != own}  # last sign, when
        self.answered = time.monotonic()  # when the service did so last
        self.reason: tuple[str, int] | None = None  # why to end, and the status
        self.done, self.finished = threading.Event(), False
        self.kept: Any = None  # what the runtime may call until this process is gone

    def look(self, beat: int) -> None:
        """Gives a sign of life, and looks for those of the others."""
        try:
            self.client.key_value_set(f"{ALIVE}{self.own}", str(beat), allow_overwrite=True)
            signs = _by_process(self.client.key_value_dir_get(ALIVE))
            ended = _by_process(self.client.key_value_dir_get(ENDED))
        except Exception:  # whatever a service that is gone makes the runtime raise
            return
        now = self.answered = time.monotonic()
        for process, (sign, _) in self.seen.items():
            if signs.get(process, "") != sign:
                self.seen[process] = signs[process], now
        for process, text in ended.items():
            status, _, why = text.partition(" ")
            if process != self.own and int(status) and not self.reason:
                self.reason = f"process {process} has ended: {why}", int(status)

    def silent(self, seconds: float) -> tuple[str, int] | None:
        """Why to end where a process gave no sign for so long."""
        now = time.monotonic()
        if now - self.answered > seconds:  # process 0 runs the service
            return f"process 0 gives no sign of life{_again(self.count)}", 2
        late = [str(i) for i, (_, at) in self.seen.items() if now - at > seconds]
        if late:
            return f"process {', '.join(late)} gives no sign of life{_again(self.count)}", 2
        return None

    def run(self, prog: str) -> None:
        """Looks until this process is done; ends it where another has ended or is silent."""
        beat = 0
        while not self.done.wait(EVERY):
            self.look(beat := beat + 1)
            self.reason = self.reason or self.silent(SILENT)
            if self.reason and not self.done.wait(GRACE):  # perhaps it ends by itself
                text, status = self.reason
                self.tell(text, status)
                os._exit(say(prog, text, status))

    def tell(self, text: str, status: int) -> None:
        """Says to the others why this process ends; the one that serves them leaves last."""
        with contextlib.suppress(Exception):  # the service is gone
            self.client.key_value_set(f"{ENDED}{self.own}", f"{status} {text}")
            deadline = time.monotonic() + GRACE + 3 * EVERY
            while self.own == 0 and time.monotonic() < deadline:
                told, now = _by_process(self.client.key_value_dir_get(ENDED)), time.monotonic()
                if all(i in told or now - at > 4 * EVERY for i, (_, at) in self.seen.items()):
                    break
                time.sleep(EVERY / 5)

    def cause(self) -> tuple[str, int] | None:
        """Why a computation over all processes failed: another one's end, if it was that."""
        deadline = time.monotonic() + GRACE + 3
        while not self.reason and time.monotonic() < deadline:
            self.reason = self.silent(4 * EVERY)
            time.sleep(EVERY / 5)
        return self.reason


def _by_process(entries: list[tuple[str, str]]) -> dict[int, str]:
    return {int(key.rpartition("/")[2]): value for key, value in entries}


def _again(count: int) -> str:
    return f"; start all {count} processes again with the same command, and they continue"


def _shared() -> Any:
    """What JAX knows of its processes: their service's client and address; None: it hides it."""
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src.distributed import global_state as state

        if state.client is not None and state.num_processes > 1 and state.coordinator_address:
            return state
    return None


def _explain_abort(watch: Watch, prog: str, address: str) -> None:
    """From now on an abort says why: the runtime's, where process 0, which serves it, has ended."""
    libc = ctypes.CDLL(None)
    host, _, port = address.rpartition(":")

    def handle(number: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            socket.create_connection((host, int(port)), timeout=2).close()
            libc.signal(number, None)  # there is another reason
            return
        if watch.finished:
            os._exit(0)
        text, status = watch.reason or (f"process 0 has ended{_again(watch.count)}", 2)
        os._exit(say(prog, text, status))

    watch.kept = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)  # any thread of the runtime aborts
    _WATCHES.append(watch)
    libc.signal(signal.SIGABRT, watch.kept)


@contextlib.contextmanager
def together(prog: str) -> Iterator[None]:
    """Within it the processes end together: each with one line that says why.

    A process that ends early leaves at once, for its runtime would wait for the others.
    """
    from jax.experimental import multihost_utils

    if (state := _shared()) is None:
        yield
        return
    watch = Watch(state.client, state.process_id, state.num_processes)
    _explain_abort(watch, prog, state.coordinator_address)
    threading.Thread(target=watch.run, args=(prog,), daemon=True).start()
    try:
        with at_once():  # the runtime has taken SIGTERM for itself
            yield
            multihost_utils.sync_global_devices("rmdnet_jax: the end")
        watch.finished = True
        watch.done.set()
        return watch.tell("", 0)
    except UserError as error:  # that a checkpoint cannot be written may be another one's end
        own = isinstance(error.__cause__, OSError | UserError | None)
        text, status = (None if own else watch.cause()) or (str(error), 2)
    except KeyboardInterrupt as stop:
        text = str(stop) or "stopped; the same command continues"
        status = getattr(stop, "status", 128 + signal.SIGINT)
    except Exception as error:
        if (found := watch.cause()) is None:
            watch.tell(f"{type(error).__name__}: {first_line(error)}", 1)
            raise
        text, status = found
    watch.done.set()
    watch.tell(text, status)
    os._exit(say(prog, text, status))

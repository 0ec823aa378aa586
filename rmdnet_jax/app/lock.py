"""Who owns a workdir: one run at a time, for as long as its process lives."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import warnings

from rmdnet_jax import sharding
from rmdnet_jax.errors import UserError
from rmdnet_jax.files import writing

try:
    import fcntl
except ImportError:  # not on Windows, which is without locks then
    fcntl = None

FILE = ".lock"


def _locked(opened: int) -> bool:
    """Takes the lock of an open file; False where another process has it.

    The system gives it back when a process ends, however it ends.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks
        text = f"the workdir's file system has no locks ({error.strerror}): start one run at a time"
        warnings.warn(text, stacklevel=2)
    return True


def hold(folder: pathlib.Path) -> int:
    """An open folder with its lock; -1 where another process has it, or where there are no locks.

    Closing it gives the lock back, as the end of a process does.
    """
    opened = -1
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        if fcntl is not None:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return opened
    drop(opened)
    return -1


def drop(held: int) -> None:
    """Gives back what `hold` has returned."""
    if held >= 0:
        os.close(held)


def _used(workdir: pathlib.Path, opened: int) -> UserError:
    """The error that names who has the lock, as far as it says so."""
    with contextlib.suppress(OSError):
        text = os.pread(opened, 200, 0).decode(errors="replace").strip()
        if text:
            return UserError(
                f"workdir {workdir} is in use by {text}; wait for it, or choose another"
            )
    return UserError(f"workdir {workdir} is in use by another run; wait for it, or choose another")


def refuse_used(workdir: pathlib.Path) -> None:
    """Raises `UserError` where another process is at work in `workdir`; changes nothing."""
    if not sharding.is_main():
        return
    try:
        opened = os.open(workdir / FILE, os.O_RDWR)
    except OSError:  # no run yet
        return
    try:
        if not _locked(opened):
            raise _used(workdir, opened)
    finally:
        os.close(opened)


class Owner:
    """The lock on a workdir, which the main process takes for all.

    Args:
      workdir: of the run.
    """

    def __init__(self, workdir: pathlib.Path):
        self.workdir, self._opened = workdir, -1

    def take(self) -> None:
        """Takes the lock; raises `UserError` where another process has it."""
        if not sharding.is_main():
            return
        with writing(self.workdir):
            self.workdir.mkdir(parents=True, exist_ok=True)
            self._opened = os.open(self.workdir / FILE, os.O_RDWR | os.O_CREAT, 0o666)
        if not _locked(self._opened):
            error = _used(self.workdir, self._opened)
            self.close()
            raise error
        with contextlib.suppress(OSError):  # a full disk: the lock holds without words
            os.ftruncate(self._opened, 0)
            os.pwrite(self._opened, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def check(self) -> None:
        """Raises `UserError` where the workdir was deleted or replaced since."""
        if self._opened < 0:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(self.workdir / FILE), os.fstat(self._opened)):
                return
        raise UserError(
            f"workdir {self.workdir} was deleted or replaced while the run went on; start it again"
        )

    def close(self) -> None:
        """Gives the lock back; its file stays, for others may be looking at it."""
        if self._opened >= 0:
            os.close(self._opened)
            self._opened = -1

"""Checkpoints of a stage: written in the background, verified by a fingerprint when read."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import re
import shutil
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from rmdnet_jax import sharding
from rmdnet_jax.errors import UserError, first_line
from rmdnet_jax.types import Array, PyTree

KEPT = 2  # the newest, and the one before to fall back to


@contextlib.contextmanager
def opened(directory: str | pathlib.Path, every: int) -> Iterator[ocp.CheckpointManager]:
    """The checkpoints under `directory`, one each `every` steps, all written at the end.

    A cluster that announces preemption gets one more.

    Raises:
      UserError: the folder cannot be used.
    """
    policy = managers.AnySavePolicy(
        [managers.FixedIntervalPolicy(every), managers.PreemptionCheckpointingPolicy()]
    )
    options = ocp.CheckpointManagerOptions(
        save_decision_policy=policy, preservation_policy=managers.LatestN(KEPT)
    )
    place = pathlib.Path(directory).resolve()
    handler = ocp.StandardCheckpointHandler()  # else what lies in the newest folder decides
    logging.getLogger("absl").addFilter(_not_of_orbax)
    with _written(place):
        manager = ocp.CheckpointManager(place, options=options, item_handlers=handler)
    try:
        yield manager
    except BaseException:  # which tells more than that this cannot be closed
        with contextlib.suppress(Exception):
            manager.close()
        raise
    with _written(place):
        manager.close()


@contextlib.contextmanager
def _written(directory: pathlib.Path) -> Iterator[None]:
    """Makes one line of whatever a full disk or a folder that is gone makes the writers raise."""
    try:
        yield
    except Exception as error:
        told = re.search(r"(?:OS error |os_error_code=')(\d+)", str(error))  # within a long line
        why = os.strerror(int(told[1])) if told else getattr(error, "strerror", None)
        why = why or first_line(error)
        raise UserError(f"checkpoints cannot be written to {directory}: {why}") from error


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs pages on errors that it raises as well, and that are told here in one line."""
    return "orbax" not in record.pathname


@jax.jit
def fingerprint(tree: PyTree) -> Array:
    """uint32 over every bit of a tree: `sum_i bits_i (2 i + 1)` in each leaf, leaves chained.

    Exact, so the same on any number of devices. The files hold no checksum of array contents: a
    flipped bit would be read as another number.
    """
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(tree):
        leaf = leaf.astype(jnp.uint8) if leaf.dtype == bool else leaf
        bits = jax.lax.bitcast_convert_type(
            leaf, {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
        )
        bits = bits.astype(jnp.uint32).ravel()
        total = total * jnp.uint32(31) + jnp.sum(
            bits * (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32
        )
    return total


def save(
    manager: ocp.CheckpointManager, step: int, state: PyTree, records: int | None = None
) -> None:
    """Saves a state; returns once its arrays are copied, the files follow in the background.

    Args:
      manager: see `opened`.
      step: of the state.
      state: arrays.
      records: a number that tells which records belong to the state, see `restore`.
    """
    content = {"state": state, "fingerprint": fingerprint(state)}
    if records is not None:
        content["records"] = content["fingerprint"] * 0 + np.uint32(records)  # where that is
    with _written(pathlib.Path(manager.directory)):
        manager.save(step, args=ocp.args.StandardSave(content), force=True)


def settle(manager: ocp.CheckpointManager) -> None:
    """Waits until what was saved is on disk; raises `UserError` where it cannot be, or is gone."""
    place = pathlib.Path(manager.directory)
    with _written(place):
        manager.wait_until_finished()
    step = manager.latest_step()
    if step is not None and not (place / str(step)).is_dir():
        raise UserError(f"checkpoint {step} in {place} has gone: was the workdir deleted?")


def numbered(manager: ocp.CheckpointManager) -> dict[int, pathlib.Path]:
    """What is called as a checkpoint is, whether it is one or not, the newest first."""
    place = pathlib.Path(manager.directory)
    with _written(place):
        found = {int(path.name): path for path in place.iterdir() if path.name.isdecimal()}
    return dict(sorted(found.items(), reverse=True))


def keep(directory: pathlib.Path, step: int, state: PyTree) -> None:
    """Leaves this very state under `directory`, in place of what cannot be read or is another."""
    with opened(directory, 1) as manager:
        found = restore(manager, state)
        if found is None or int(fingerprint(found.state)) != int(fingerprint(state)):
            _removed([*numbered(manager).values()])
            manager.reload()
            save(manager, step, state)


class Restored(NamedTuple):
    """A checkpoint that was read."""

    step: int
    state: PyTree
    records: int | None  # as saved


def restore(
    manager: ocp.CheckpointManager, like: PyTree, remove: bool = False, records: bool = False
) -> Restored | None:
    """The newest readable checkpoint, or None; unreadable ones are warned of.

    Args:
      manager: see `opened`.
      like: arrays or shape structs of the shapes, types and shardings wanted.
      remove: whether, once an older one is read, the unreadable newer ones are deleted, so that
        their steps can be saved again.
      records: whether it was saved with a number for its records.
    """
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
    )
    number = jax.ShapeDtypeStruct((), jnp.uint32, sharding=jax.tree.leaves(shapes)[0].sharding)
    wanted = {"state": shapes, "fingerprint": number} | ({"records": number} if records else {})
    unreadable: list[pathlib.Path] = []
    for step, path in numbered(manager).items():
        try:
            found: Any = manager.restore(step, args=ocp.args.StandardRestore(wanted))
            if int(fingerprint(found["state"])) != int(found["fingerprint"]):
                raise ValueError("its content does not match its fingerprint")
            read = True
        except Exception as error:  # whatever a damaged file makes the readers below raise
            warnings.warn(
                f"checkpoint {step} in {manager.directory} cannot be read and is passed over "
                f"({first_line(error):.160})",
                stacklevel=2,
            )
            read, found = False, {}
        if not sharding.all_agree(read):  # each process may see other files
            unreadable.append(path)
            continue
        if remove and unreadable:
            _removed(unreadable)
            manager.reload()
        return Restored(step, found["state"], int(found["records"]) if records else None)
    return None


def _removed(paths: list[pathlib.Path]) -> None:
    """Deletes folders, and files in their place."""
    for path in paths if sharding.is_main() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    sharding.all_agree(True)  # no process goes on before they are gone

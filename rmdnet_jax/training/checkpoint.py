"""Checkpoints of a stage: written in the background, verified by a fingerprint when read."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import warnings
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from rmdnet_jax.errors import first_line
from rmdnet_jax.types import Array, PyTree

KEPT = 2  # the newest, and the one before to fall back to


@contextlib.contextmanager
def opened(directory: str | pathlib.Path, every: int) -> Iterator[ocp.CheckpointManager]:
    """The checkpoints under `directory`, one each `every` steps, all written at the end.

    A cluster that announces preemption gets one more.
    """
    policy = managers.AnySavePolicy(
        [managers.FixedIntervalPolicy(every), managers.PreemptionCheckpointingPolicy()]
    )
    options = ocp.CheckpointManagerOptions(
        save_decision_policy=policy, preservation_policy=managers.LatestN(KEPT)
    )
    with contextlib.closing(
        ocp.CheckpointManager(pathlib.Path(directory).resolve(), options=options)
    ) as manager:
        yield manager


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


def save(manager: ocp.CheckpointManager, step: int, state: PyTree) -> None:
    """Saves a state; returns once its arrays are copied, the files follow in the background."""
    manager.save(
        step,
        args=ocp.args.StandardSave({"state": state, "fingerprint": fingerprint(state)}),
        force=True,
    )


def restore(
    manager: ocp.CheckpointManager, like: PyTree, remove: bool = False
) -> tuple[int, PyTree] | None:
    """The newest readable checkpoint as (step, state), or None; unreadable ones are warned of.

    Args:
      manager: see `opened`.
      like: arrays or shape structs of the shapes, types and shardings wanted.
      remove: whether, once an older one is read, the unreadable newer ones are deleted, so that
        their steps can be saved again.
    """
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
    )
    place = jax.tree.leaves(shapes)[0].sharding
    wanted = {"state": shapes, "fingerprint": jax.ShapeDtypeStruct((), jnp.uint32, sharding=place)}
    unreadable: list[int] = []
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            found = manager.restore(step, args=ocp.args.StandardRestore(wanted))
            if int(fingerprint(found["state"])) != int(found["fingerprint"]):
                raise ValueError("its content does not match its fingerprint")
        except Exception as error:  # whatever a damaged file makes the readers below raise
            warnings.warn(
                f"checkpoint {step} in {manager.directory} cannot be read, taking the one before "
                f"({first_line(error)})",
                stacklevel=2,
            )
            unreadable.append(step)
            continue
        for newer in unreadable if remove else ():
            shutil.rmtree(pathlib.Path(manager.directory) / str(newer), ignore_errors=True)
            manager.reload()
        return step, found["state"]
    return None

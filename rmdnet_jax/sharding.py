"""Devices as one mesh with the axis `data`.

Batches and tables by example are split over it, all else is everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from rmdnet_jax.types import AXIS, Array, PyTree

ROWS = 3072  # 3 * 2^10


def mesh() -> Mesh:
    """All devices of all processes on one axis.

    `Auto`: the compiler places what a jitted function does. The default raises on z @ z.T.
    """
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def everywhere(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters, statistics and data: a copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(mesh: Mesh, tree: PyTree) -> PyTree:
    """Host or device arrays, the same in each process, copied to every device.

    Of several processes each copies its own: `device_put` would compare all of them first.
    """
    place = everywhere(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, place)
    return jax.tree.map(lambda x: _own(x, place), tree)


def _own(array: Any, place: Sharding) -> Array:
    """An array, the same in each process, of which each copies its own part."""
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, place, lambda where: array[where])


def split(mesh: Mesh, array: np.ndarray, axis: int = 0) -> Array:
    """A host array, the same in each process, split over the devices along an axis."""
    return _own(array, NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS)))


def padded(rows: int) -> int:
    """The rows of a table by example that up to 1,024 devices share evenly."""
    return -(-rows // ROWS) * ROWS


def by_example(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding of a table by example: its rows split where the devices share them evenly."""
    return NamedSharding(mesh, _rows(shape, mesh.size))


def _rows(shape: tuple[int, ...], count: int) -> PartitionSpec:
    return PartitionSpec(AXIS) if shape and not shape[0] % count else PartitionSpec()


def spread(mesh: Mesh, table: np.ndarray) -> Array:
    """A host table by example, the same in each process, split over the devices, see `padded`."""
    rows = padded(len(table)) - len(table)
    table = np.pad(table, ((0, rows), *((0, 0),) * (table.ndim - 1)))
    return _own(table, by_example(mesh, table.shape))


def kept(tree: PyTree) -> PyTree:
    """Within a jitted function: tables by example stay split, see `by_example`."""
    count = devices()
    if count == 1:
        return tree
    constrain = jax.lax.with_sharding_constraint
    return jax.tree.map(lambda x: constrain(x, _rows(x.shape, count)), tree)


def host(tree: PyTree) -> PyTree:
    """Device arrays as whole host arrays, also where other processes hold parts of them."""
    whole = [x.is_fully_addressable or x.is_fully_replicated for x in jax.tree.leaves(tree)]
    return jax.device_get(tree) if all(whole) else multihost_utils.process_allgather(tree, True)


def placed(tree: PyTree, like: PyTree) -> PyTree:
    """Host arrays, the same in each process, where the arrays of `like` lie."""
    return jax.tree.map(lambda x, old: _own(x, old.sharding), tree, like)


def read(mesh: Mesh, rows: np.ndarray, reader: Callable[[np.ndarray], PyTree]) -> PyTree:
    """What `reader` gives for rows, split over the devices along the last axis of `rows`.

    Args:
      mesh: the devices.
      rows: [..., k], the same in each process.
      reader: (rows [m]) -> host arrays [m, ...]; asked once, for this process's devices alone.

    Returns:
      Arrays [..., k, ...].
    """
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * (rows.ndim - 1), AXIS))
    where = sharding.addressable_devices_indices_map(rows.shape)
    own = {device: rows[index] for device, index in where.items()}
    found = reader(np.concatenate([part.ravel() for part in own.values()]))

    def whole(array: np.ndarray) -> Array:
        split = np.split(array, np.cumsum([part.size for part in own.values()])[:-1])
        placed = [
            jax.device_put(x.reshape(*part.shape, *array.shape[1:]), device)
            for x, (device, part) in zip(split, own.items())
        ]
        shape = (*rows.shape, *array.shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, placed)

    return jax.tree.map(whole, found)


def is_main() -> bool:
    """Whether this process writes files and shows progress."""
    return jax.process_index() == 0


def main_says(value: bool) -> bool:
    """What the main process found: of several, only one may look at files that it writes."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


def all_agree(value: bool) -> bool:
    """Whether each process says so; all have come this far by then."""
    if jax.process_count() == 1:
        return value
    return bool(np.all(multihost_utils.process_allgather(np.array(value))))


def gathered(one: Array, two: Array, sharded: bool) -> tuple[Array, Array, Array]:
    """All devices' rows of both, and the place of this device's first."""
    if not sharded:
        return one, two, jnp.int32(0)
    gather = functools.partial(jax.lax.all_gather, axis_name=AXIS, tiled=True)
    return gather(one), gather(two), jax.lax.axis_index(AXIS) * len(one)


def devices() -> int:
    """Devices that share the rows of the mesh that is set; within a `shard_map` one."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.manual_axes else dict(mesh.shape).get(AXIS, 1)


def whole(tree: PyTree) -> PyTree:
    """Within a jitted function: these arrays on every device, so that every process can read."""
    return jax.lax.with_sharding_constraint(tree, PartitionSpec()) if devices() > 1 else tree


def over_devices(function, *rows: Array):
    """`function(rows, ..., sharded)` on each device's own rows, or on all where there is one."""
    if devices() == 1:
        return function(*rows, sharded=False)
    split, part = PartitionSpec(AXIS), functools.partial(function, sharded=True)
    run = jax.shard_map(part, in_specs=split, out_specs=split, check_vma=False)
    if not jax.sharding.get_abstract_mesh().explicit_axes:
        return run(*rows)
    # Types that name their sharding have to be told what `Auto` finds out.
    found = run(*(jax.sharding.reshard(x, split) for x in rows))
    return jax.tree.map(lambda x: jax.sharding.reshard(x, PartitionSpec()), found)

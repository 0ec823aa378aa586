"""Chips that are not here, as compilers describe them: TPUs by libtpu, GPUs by a card's file.

No device is touched. What a chip can hold is what its compiler lets programs use.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from rmdnet_jax.errors import UserError, first_line, unknown
from rmdnet_jax.types import AXIS

GIB = 2**30
# What a compiler lets a chip's programs take, GB (libtpu 0.0.42), and the slices that are sold:
# https://cloud.google.com/tpu/docs, 2026.
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = (
    "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16",
)  # fmt: skip
TPUS: dict[str, tuple[float, Sequence[str]]] = {
    "v4": (30.75, CUBES),
    "v5e": (15.75, FLAT),
    "v5p": (95.74, CUBES),
    "v6e": (31.25, FLAT),
}
# Of a v4 both cores are one device; a single chip shares its host with no other.
OPTIONS = {"v4": {"chip_config_name": "megacore"}, "1x1": {"chips_per_host_bounds": (1, 1, 1)}}
CARDS = {"h100": """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
runtime_version: { major: 13 minor: 0 patch: 0 }
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 17 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""}  # fmt: skip
TAKEN = 0.75  # of a card's memory: what JAX takes, unless XLA_PYTHON_CLIENT_MEM_FRACTION says more


class Target(NamedTuple):
    """Chips to compile for."""

    name: str  # as it was asked for
    mesh: Mesh
    chip: str  # what its maker calls it
    memory: int  # bytes a chip
    backend: str  # what `jax.default_backend()` says there
    compiler: str  # its version


def known() -> list[str]:
    """The names that may be asked for; others of the same kinds are tried."""
    tpus = [f"{kind}:{shape}" for kind, (_, shapes) in TPUS.items() for shape in shapes]
    return [*tpus, *(f"{card}:{count}" for card in CARDS for count in (1, 8))]


def target(name: str) -> Target:
    """The chips that a topology's name means, such as `v5e:16x16` or `h100:8`.

    Raises:
      UserError: an unknown name, or the compiler for it is not installed.
    """
    kind, _, shape = name.partition(":")
    if kind in CARDS and re.fullmatch(r"[1-9]\d{0,2}", shape):
        return _cards(name, kind, int(shape))
    if kind in TPUS and re.fullmatch(
        r"\d+x\d+" if TPUS[kind][1] is FLAT else r"\d+x\d+x\d+", shape
    ):
        return _tpus(name, kind)
    raise unknown("--topology", name, [x for x in known() if x.startswith(f"{kind}:")] or known())


def _tpus(name: str, kind: str) -> Target:
    from jax._src.cloud_tpu_init import get_tpu_library_path  # nothing public tells it

    if get_tpu_library_path() is None:
        raise UserError(
            f"--topology {name} needs the compiler for TPUs, which runs on any Linux machine: "
            "pip install 'rmdnet_jax[tpu]'"
        )
    try:
        options = OPTIONS.get(kind, {}) | OPTIONS.get(name.partition(":")[2], {})
        devices = topologies.get_topology_desc(name, "tpu", **options).devices
    except Exception as error:  # each version of libtpu has its own
        said = first_line(error)
        if "INVALID_ARGUMENT" in said:
            near = [one for one in known() if one.startswith(kind) and one != name]
            raise unknown("--topology", name, near) from None
        raise UserError(f"--topology {name}: libtpu says: {said}") from None
    return _target(name, devices, int(TPUS[kind][0] * GIB), "tpu")


def _cards(name: str, kind: str, count: int) -> Target:
    try:
        devices = topologies.get_topology_desc(
            kind, "cuda", target_config=CARDS[kind], topology=f"1x1x{count}"
        ).devices
    except Exception as error:  # each version of jax has its own
        raise UserError(
            f"--topology {name} needs a jax that has the CUDA compiler: "
            f"pip install 'rmdnet_jax[cuda]' (it says: {first_line(error)})"
        ) from None
    size = re.search(r"device_memory_size: (\d+)", CARDS[kind])
    assert size
    return _target(name, devices, int(TAKEN * int(size[1])), "gpu")


def _target(name: str, devices: Any, memory: int, backend: str) -> Target:
    mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
    version = devices[0].client.platform_version.replace("\n", " ")
    return Target(name, mesh, devices[0].device_kind, memory, backend, version)


@contextlib.contextmanager
def choosing(backend: str) -> Iterator[None]:
    """Within it everything is built as on that backend: what is asked is `jax.default_backend`."""
    before = jax.default_backend
    jax.default_backend = lambda: backend
    try:
        yield
    finally:
        jax.default_backend = before

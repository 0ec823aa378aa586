"""What makes a CPU fast: memory that is kept, and convolutions in shapes that XLA is quick at.

Nothing here is for accelerators. Values are those of JAX's own operations, but for rounding.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmdnet_jax.types import Array

# M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of glibc's malloc.h
KEEP = ((-8, 1), (-3, 1 << 30), (-1, (1 << 31) - 1))


def keep_memory() -> bool:
    """Makes this process keep the memory that it frees; whether it does so now.

    XLA takes its temporary buffers from malloc in each step. By default large ones go back to the
    system, and come again page by page. To be called before JAX looks for devices. Does nothing
    where that may find an accelerator, without glibc, and where `MALLOC_...` is set.
    """
    plugins = any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
    platforms = os.environ.get("JAX_PLATFORMS") or ("any" if plugins else "cpu")
    own = any(name.startswith("MALLOC_") for name in os.environ)
    if platforms != "cpu" or own or sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    return hasattr(libc, "gnu_get_libc_version") and all(libc.mallopt(*pair) for pair in KEEP)


def convolution(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, **options: Any
) -> Array:
    """`jax.lax.conv_general_dilated` for layers that pad by half of their kernel, NHWC."""
    if kernel.shape[:2] == (3, 3):
        if max(x.shape[1:3]) <= 2:
            return _product(x, kernel, strides)
        if kernel.shape[2] <= 4 and x.shape[2] % 4 == 0 and tuple(strides) == (1, 1):
            return _fours(x, kernel)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _product(x: Array, kernel: Array, strides: Sequence[int]) -> Array:
    """3x3 on at most 2x2 pixels as one matrix product, since each pixel meets each."""
    down, right = (
        np.arange(size)[:, None] - np.arange(0, size, stride) + 1
        for size, stride in zip(x.shape[1:3], strides)
    )
    every = kernel[down[:, None, :, None], right[None, :, None]]  # [h, w, h', w', in, out]
    return jnp.einsum("bhwi,hwyxio->byxo", x, every)


@jax.custom_vjp
def _fours(x: Array, kernel: Array) -> Array:
    """3x3 of few channels: four pixels of a row at once, which are 3x6 at stride 4."""
    shifted = [jnp.pad(kernel, ((0, 0), (i, 3 - i), (0, 0), (0, 0))) for i in range(4)]
    found = _plain(x, jnp.concatenate(shifted, 3), (1, 4))
    return found.reshape(*x.shape[:3], kernel.shape[3])


def _plain(x: Array, kernel: Array, strides: Sequence[int] = (1, 1)) -> Array:
    order = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, strides, [(1, 1)] * 2, dimension_numbers=order)


# Its own gradient is that of a larger kernel, and slower.
_fours.defvjp(
    lambda x, kernel: (_fours(x, kernel), (x, kernel)),
    lambda kept, gradient: jax.vjp(_plain, *kept)[1](gradient),
)

"""P0: does the accelerator compute what a CPU computes? And how fast can it copy and multiply?

    python -m benchmarks.gpu.gate OUT.json

A row a check: the largest difference, relative to the largest value, and the most that is allowed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.record import Record, median
from rmdnet_jax.data import augment
from rmdnet_jax.labels import noise
from rmdnet_jax.networks import encoders
from rmdnet_jax.relations import losses
from rmdnet_jax.relations.propagation import propagate

EXACT, FLOAT32 = 0.0, 1e-4


def draws(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def labels():
    kind = noise.make("symmetric", num_classes=10, seed=0, rate=0.5)
    return jax.jit(kind.labels)(np.arange(5000), np.arange(5000) % 10)


def augmented():
    images = np.abs(draws(64, 32, 32, 3)) % 1
    view = augment.AUGMENTATIONS["simsiam"]()
    return jax.jit(jax.vmap(view))(jax.random.split(jax.random.key(0), 64), images)


def forward():
    network = encoders.ENCODERS["resnet18"](width=16)
    variables = network.init(jax.random.key(0), jnp.zeros((2, 32, 32, 3)))

    def loss(params, image):
        feature, _ = network.apply(variables._replace(params=params), image, True)
        return jnp.mean(feature**2)

    value = jax.jit(jax.value_and_grad(loss))(variables.params, draws(32, 32, 32, 3))
    return [jnp.ravel(x) for x in jax.tree.leaves(value)]


def edges(block: int):
    loss = jax.jit(jax.value_and_grad(lambda a, b: losses.softmax_kl(a, b, block=block)))
    return jax.tree.leaves(loss(draws(1024, 64), draws(1024, 64)[::-1].copy()))


def blocks():
    """Plain against blocks, on the same device."""
    return [a - b for a, b in zip(edges(0), edges(128))]


def corrected():
    centres = np.repeat(np.eye(10, 32, dtype=np.float32), 100, axis=0)
    given = np.repeat(np.arange(10), 100)
    given[::3] = (given[::3] + 1) % 10
    return [propagate(centres + 0.2 * draws(1000, 32), given, 10).targets]


CHECKS: dict[str, tuple[Callable, float]] = {
    "labels after noise": (labels, EXACT),
    "augmentation": (augmented, FLOAT32),
    "ResNet-18, float32: loss and gradient": (forward, 1e-3),
    "edge loss and gradient": (lambda: edges(0), FLOAT32),
    "edge loss: plain less blocks": (blocks, 1e-5),
    "corrected labels": (corrected, 1e-2),
}


def difference(run: Callable) -> float:
    """The largest difference from a CPU's result, over the largest value there."""
    found = []
    for platform in (jax.default_backend(), "cpu"):
        with (
            jax.default_device(jax.local_devices(backend=platform)[0]),
            jax.default_matmul_precision("highest"),
        ):
            found.append([np.asarray(x, np.float64) for x in jax.tree.leaves(run())])
    pairs = list(zip(*found))
    scale = max(float(np.abs(theirs).max()) for _, theirs in pairs)
    return max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs) / max(scale, 1.0)


def ceilings() -> dict:
    """The highest rates: a bfloat16 product's, and a copy's."""
    size = 512 if jax.default_backend() == "cpu" else 8192
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    y = jax.random.normal(jax.random.key(1), (size, size * 4), jnp.float32)
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda a: a + 1)
    times = median(lambda: product(x, x)), median(lambda: copy(y))
    return {
        "matrix_tflops": 2 * size**3 / times[0]["ms"] / 1e9,
        "copy_tb_per_s": 8 * y.size / times[1]["ms"] / 1e9,
    }


def main(out: str) -> None:
    record = Record(out, "gate")
    record.add(case="ceilings", **ceilings())
    for name, (run, allowed) in CHECKS.items():
        found = difference(run)
        record.add(case=name, difference=found, allowed=allowed, passed=bool(found <= allowed))


if __name__ == "__main__":
    main(sys.argv[1])

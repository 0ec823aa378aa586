"""One GPU, the same bits: what `deterministic=true` asks of the compiler, before JAX starts.

Without it the compiler times kernels and takes the fastest, which may be another one each time, and
some kernels add in the order in which threads end. On a CPU runs are bit-exact as they are.
"""

from __future__ import annotations

import os

import jax

from rmdnet_jax.app.schema import Config
from rmdnet_jax.errors import wrong

FLAGS = (
    "--xla_gpu_deterministic_ops=true",  # no such kernels, and none chosen by time
    # Products as cuBLAS does them: without timing, fused ones may find no kernel at all.
    "--xla_gpu_enable_triton_gemm=false",
)


def prepare(config: Config) -> None:
    """Sets the flags of the compiler where a config asks for the same bits each time.

    Raises:
      UserError: JAX uses a GPU already, and was started without them.
    """
    here = os.environ.get("XLA_FLAGS", "").split()
    lacks = [flag for flag in FLAGS if flag not in here]
    if not config.deterministic or not lacks:
        return
    if not started():
        os.environ["XLA_FLAGS"] = " ".join([*here, *lacks])
    elif jax.default_backend() == "gpu":
        flags = " ".join(FLAGS)
        raise wrong(
            "deterministic",
            "be set before JAX starts, got true when it uses a GPU already: start a new process, "
            f"or begin with XLA_FLAGS='{flags}'",
        )


def started() -> bool:
    """Whether JAX has looked for devices: the compiler reads its flags then."""
    from jax._src import xla_bridge  # nothing public tells it

    return xla_bridge.backends_are_initialized()

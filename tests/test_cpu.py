"""What a CPU gets: memory and programs that are kept, convolutions in other shapes."""

import ctypes
import itertools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from numpy.testing import assert_allclose

from rmdnet_jax import cpu
from rmdnet_jax.networks import layers

PADDING, NUMBERS = ((1, 1), (1, 1)), ("NHWC", "HWIO", "NHWC")
SIDES = (1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (4, 4), (5, 8), (8, 12), (7, 6)
GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
glibc = pytest.mark.skipif(not GLIBC, reason="glibc's malloc has these settings")


def reference(x, kernel, stride):
    """A convolution, pixel by pixel."""
    padded = np.pad(x, ((0, 0), *PADDING, (0, 0)))
    rows, columns = (range(0, size, stride) for size in x.shape[1:3])
    found = np.zeros((len(x), len(rows), len(columns), kernel.shape[3]))
    for i, j in itertools.product(range(len(rows)), range(len(columns))):
        window = padded[:, rows[i] : rows[i] + 3, columns[j] : columns[j] + 3]
        found[:, i, j] = np.tensordot(window, kernel, 3)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("sides", SIDES)
def test_a_convolution_and_its_gradients_are_those_of_lax(sides, channels, stride, dtype):
    with jax.enable_x64(dtype == "float64"):
        draw = np.random.default_rng(0).normal
        x, kernel = draw(size=(3, *sides, channels)), draw(size=(3, 3, channels, 7))
        weight = draw(size=reference(x, kernel, stride).shape)

        def summed(convolution):
            def total(x, kernel):
                y = convolution(x, kernel, (stride, stride), PADDING, dimension_numbers=NUMBERS)
                return jnp.sum(y * weight.astype(dtype)), y

            run = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
            (_, y), gradients = run(x.astype(dtype), kernel.astype(dtype))
            return [y, *gradients]

        ours, theirs = summed(cpu.convolution), summed(jax.lax.conv_general_dilated)
        tolerance = 1e-5 if dtype == "float32" else 1e-12
        for one, other in zip([*ours, ours[0]], [*theirs, reference(x, kernel, stride)]):
            assert one.dtype == dtype
            assert_allclose(one, other, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("kernel", [1, 5, 7])
def test_other_kernels_are_left_to_lax(kernel):
    draw, half = np.random.default_rng(0).normal, kernel // 2
    x, kernel = draw(size=(2, 2, 2, 3)), draw(size=(kernel, kernel, 3, 4))
    options = ((1, 1), ((half, half), (half, half)))
    found, expected = (
        convolution(x.astype("f4"), kernel.astype("f4"), *options, dimension_numbers=NUMBERS)
        for convolution in (cpu.convolution, jax.lax.conv_general_dilated)
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_no_accelerator_meets_them(monkeypatch, backend):
    import flax.linen as nn

    class One(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.conv(x, 4, name="one")

    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x = jnp.zeros((1, 2, 2, 3))
    variables = One().init(jax.random.key(0), x)
    operations = str(jax.make_jaxpr(One().apply)(variables, x))
    assert ("conv_general_dilated" in operations) == (backend != "cpu")


def test_a_program_that_compiles_at_once_is_kept_too(tmp_path):
    code = (
        "import jax\nfrom rmdnet_jax.app import setup\nfrom rmdnet_jax.data import store\n"
        "setup.keep_programs()\njax.jit(lambda x: x + 1)(1.0)\nprint(store.compiled())"
    )
    clean = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        env={**clean, "RMDNET_CACHE": str(tmp_path)},
    )  # fmt: skip
    assert any(pathlib.Path(run.stdout.strip()).iterdir()), run.stderr


FAULTS = """
import resource, sys
from rmdnet_jax import main
from rmdnet_jax.training.metrics import Writer

seen, write = [], Writer.write

def counted(*arguments):
    seen.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    return write(*arguments)

Writer.write = counted
assert main.main(["x", *sys.argv[1:]]) == 0
print(min(later - before for before, later in zip(seen, seen[1:])))
"""


def faults(tmp_path, **environment):
    """Page faults of an epoch, as the command trains a CNN: 4 steps of 128 images 32x32."""
    tmp_path.mkdir(exist_ok=True)
    draw = np.random.default_rng(0).integers
    images = draw(0, 256, (512, 32, 32, 3)).astype(np.uint8)
    test = {"test_images": images[:64], "test_labels": np.arange(64) % 10}
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(512) % 10, **test)
    values = {
        "data.name": "npz", "data.dir": tmp_path / "data.npz", "encoder.widths": "16,32,64",
        "rate": 0.2, "weight": 0, "batch_size": 128, "relation_guided.epochs": 4, "controls": "()",
    }  # fmt: skip
    words = ["--workdir", str(tmp_path / "run"), "--config", "digits:quick"]
    words += [f"--config.{name}={value}" for name, value in values.items()]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    one = {"XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", FAULTS, *words], cwd=ROOT, capture_output=True, text=True,
        env={**clean, **one, **environment},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return int(run.stdout.splitlines()[-1])


@glibc
def test_a_step_takes_no_new_pages(tmp_path):
    tries = (faults(tmp_path / str(i)) < 4 * 100 for i in range(3))  # a system may take pages back
    assert any(tries)


@glibc
def test_what_the_user_says_of_malloc_holds(tmp_path):
    assert faults(tmp_path, MALLOC_ARENA_MAX="8") > 4 * 1000

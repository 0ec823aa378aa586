"""All tests see eight CPU devices (one process) and never touch the user's caches."""

import os
import pathlib
import shutil
import signal
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Threads of a busy machine's XLA: with one a device, a sum over devices may wait for ever.
os.environ["PJRT_NPROC"] = "32"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Many tests run the same small programs: each is compiled once a session.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="rmdnet_jax_compiled_")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# As in a terminal, also where these tests are started by `nohup` or in the background.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def pytest_unconfigure():
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RMDNET_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """On a busy machine no test sees what commands say to somebody who waits."""
    monkeypatch.setattr("rmdnet_jax.app.command.PATIENCE", 3600.0)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=[1, 8], ids=["1 device", "8 devices"])
def devices(request):
    """Runs the test twice: with no mesh set, and with all eight devices in one."""
    from rmdnet_jax import sharding

    if request.param == 1:
        yield
    else:
        with jax.set_mesh(sharding.mesh()):
            yield


def tiny(**values):
    """Both stages in a few seconds; dotted or short names set values, `tiny(method="elr")`.

    Unresolved: `resolve` fills in what nobody set.
    """
    from rmdnet_jax.app.load import get_config
    from rmdnet_jax.app.overrides import override

    config = override(
        get_config("digits:quick"),
        {
            "data.limit": 256,
            "relation_modeling.batch_size": 64,
            "relation_guided.batch_size": 64,
            "encoder.widths": (4, 8),
            "relation_guided.epochs": 2,
            "checkpoint_steps": 3,
            "controls": (),
        },
    )
    return override(config, values)


def assert_same(one, two):
    """Bit for bit."""
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

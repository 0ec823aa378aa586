"""`rmdnet doctor`: what is installed, which devices there are, what is prepared, what is missing.

Nothing here raises an error or waits for long: whoever asks has enough trouble already.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from typing import Any

import rmdnet_jax
from rmdnet_jax.errors import first_line

# Package: name of its import. A run needs each of them.
CORE = {
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax",
    "optax": "optax",
    "orbax-checkpoint": "orbax.checkpoint",
    "numpy": "numpy",
    "ml-collections": "ml_collections",
    "scikit-learn": "sklearn",
    "pandas": "pandas",
    "pillow": "PIL",
    "matplotlib": "matplotlib",
    "safetensors": "safetensors",
    "tensorflow-datasets": "tensorflow_datasets",
    "clu": "clu",
}
# Import: what it is for, and the extra that brings it.
EXTRAS = {
    "tensorflow": ("prepares data sets of TFDS, reads tfrecord, writes for TensorBoard", "tfds"),
    "faiss": ("finds neighbours among very many examples on a CPU", "large"),
    "torch": ("reads checkpoints of PyTorch that are not safetensors", "torch"),
}
DEVICES = """
import json, jax
print(json.dumps({"platform": jax.default_backend(), "count": jax.device_count(),
                  "kinds": sorted({d.device_kind for d in jax.devices()})}))
"""
IDLE = "an NVIDIA GPU is here, and JAX does not use it: pip install 'rmdnet_jax[cuda]'"
SECONDS = 60  # that devices may take to answer
DATA_FILES = ("features.json", "dataset_info.json")  # every data set that TFDS prepared has both


def main(argv: list[str] | None = None) -> int:
    """Prints what it finds; returns 0 where a run has all that it needs, else 1."""
    parser = argparse.ArgumentParser(prog="rmdnet doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    args = parser.parse_args(argv)
    found = examine()
    print(json.dumps(found, indent=2) if args.json else text(found))
    return int(bool(found["missing"]))


def examine(seconds: float = SECONDS) -> dict[str, Any]:
    """All that is found, as plain values; `missing` lists in words what a run cannot do without."""
    sections = {
        "versions": versions,
        "machine": machine,
        "devices": lambda: devices(seconds),
        "caches": caches,
        "data": data,
        "extras": extras,
    }
    found = {name: attempt(section) for name, section in sections.items()}
    return found | {"missing": missing(found)}


def attempt(section: Callable[[], dict]) -> dict[str, Any]:
    """What a section finds, or the error that kept it from finding it."""
    try:
        return section()
    except Exception as error:  # a report must not end in a traceback
        return {"error": f"{type(error).__name__}: {first_line(error)}"}


def versions() -> dict[str, str | None]:
    """The versions of Python, of this package and of those that a run needs; None: not there."""
    own = {"python": platform.python_version(), "rmdnet_jax": rmdnet_jax.__version__}
    return own | {name: version(name) if there(module) else None for name, module in CORE.items()}


def version(name: str) -> str:
    """A package's version."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(version unknown)"


def there(module: str) -> bool:
    """Whether a module could be imported; does not import it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def machine() -> dict[str, Any]:
    """The system, its cores and its memory in GiB."""
    usable = getattr(os, "sched_getaffinity", None)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if os.name == "posix" else 0
    return {
        "system": platform.platform(terse=True),
        "cores": len(usable(0)) if usable else os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1) or None,
    }


def devices(seconds: float) -> dict[str, Any]:
    """JAX's platform and devices, asked in another process: a driver may hang or crash."""
    free = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # a run may hold the memory
    command = [sys.executable, "-c", DEVICES]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=free)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {seconds:g} s"}
    if run.returncode:
        lines = [line.strip() for line in run.stderr.splitlines() if line.strip()]
        return {"error": lines[-1][:200] if lines else f"JAX ended with status {run.returncode}"}
    found = json.loads(run.stdout.splitlines()[-1])
    idle = found["platform"] == "cpu" and any(pathlib.Path("/dev").glob("nvidia[0-9]*"))
    return found | {"advice": IDLE if idle else ""}


def caches() -> dict[str, Any]:
    """The folders of decoded images and of compiled programs."""
    from rmdnet_jax.data import store  # which needs NumPy: perhaps that is what is missing

    base = store.root()
    compiled = pathlib.Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or base / "compiled")
    return {"images": folder(base, without=compiled), "programs": folder(compiled)}


def folder(path: pathlib.Path, without: pathlib.Path | None = None) -> dict[str, Any]:
    """A folder's path, its size in MiB, and whether files can be written there."""
    size = sum(
        pathlib.Path(root, name).lstat().st_size
        for root, _, names in os.walk(path)
        if without is None or not pathlib.Path(root).is_relative_to(without)
        for name in names
    )
    return {"path": str(path), "mib": round(size / 2**20, 1), "writable": writable(path)}


def writable(path: pathlib.Path) -> bool:
    """Whether a file can be made in a folder, or in the nearest one above that exists."""
    try:
        place = next(place for place in (path, *path.parents) if place.exists())
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False


def data() -> dict[str, Any]:
    """Which data can be read: the digits, and the data sets that TFDS prepared."""
    place = pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    infos = [info for depth in ("*/*", "*/*/*") for info in place.glob(f"{depth}/{DATA_FILES[1]}")]
    whole = [info.parent for info in infos if info.with_name(DATA_FILES[0]).exists()]
    return {
        "digits": there("sklearn"),
        "tfds_dir": str(place),
        "tfds": sorted({path.relative_to(place).as_posix() for path in whole}),
        "can_prepare": there("tensorflow"),
    }


def extras() -> dict[str, Any]:
    """The packages that some runs need: whether each is there, what for, how to get it."""
    return {
        name: {"there": there(name), "for": what, "get": f"pip install 'rmdnet_jax[{extra}]'"}
        for name, (what, extra) in EXTRAS.items()
    }


def missing(found: dict[str, Any]) -> list[str]:
    """What a run cannot do without, in words."""
    lacks = [name for name, value in found["versions"].items() if value is None]
    words = [f"{name}: pip install '{name}'" for name in lacks]
    if error := found["devices"].get("error"):
        words.append(f"a device that JAX can use: {error}")
    return words


def text(found: dict[str, Any]) -> str:
    """The findings in plain words."""
    parts = {
        "versions": say_versions,
        "machine": say_machine,
        "devices": say_devices,
        "caches": say_caches,
        "data": say_data,
        "extras": say_extras,
    }
    lines = []
    for name, say in parts.items():
        error = found[name].get("error")
        lines += [name, *(f"  {line}" for line in ([str(error)] if error else say(found[name])))]
    lacks = found["missing"]
    return "\n".join([*lines, *(f"missing: {what}" for what in lacks), verdict(lacks)])


def verdict(lacks: list[str]) -> str:
    """The last line."""
    if not lacks:
        return "all that a run needs is here"
    return f"a run needs what is missing above: {len(lacks)} thing{'s' if len(lacks) > 1 else ''}"


def say_versions(found: dict[str, Any]) -> list[str]:
    """One line a package."""
    return [f"{name:20} {value or 'not installed'}" for name, value in found.items()]


def say_machine(found: dict[str, Any]) -> list[str]:
    """The system's line."""
    memory = f"{found['memory_gib']} GiB of memory" if found["memory_gib"] else "memory unknown"
    return [f"{found['system']}, {found['cores']} cores, {memory}"]


def say_devices(found: dict[str, Any]) -> list[str]:
    """The devices' line, and what would make more of them."""
    kinds = ", ".join(found["kinds"])
    line = f"{found['count']} x {kinds} (JAX's platform {found['platform']})"
    return [line, *filter(None, [found["advice"]])]


def say_caches(found: dict[str, Any]) -> list[str]:
    """One line a folder."""
    titles = {"images": "decoded images", "programs": "compiled programs"}
    return [
        f"{titles[name]:20} {about['path']}, {about['mib']} MiB"
        + ("" if about["writable"] else ": cannot be written, so each run makes its own anew")
        for name, about in found.items()
    ]


def say_data(found: dict[str, Any]) -> list[str]:
    """What can be trained on."""
    digits = "come with scikit-learn" if found["digits"] else "need scikit-learn"
    prepared = ", ".join(found["tfds"]) or "none"
    others = "TensorFlow is here to prepare others"
    if not found["can_prepare"]:
        others = f"to prepare others: {extras()['tensorflow']['get']}"
    return [
        f"digits               {digits}",
        f"prepared by TFDS     {prepared} (in {found['tfds_dir']})",
        f"others               {others}",
    ]


def say_extras(found: dict[str, Any]) -> list[str]:
    """One line a package."""
    return [
        f"{name:20} {'here' if about['there'] else 'not here'}: {about['for']}"
        + ("" if about["there"] else f"; {about['get']}")
        for name, about in found.items()
    ]


if __name__ == "__main__":
    sys.exit(main())

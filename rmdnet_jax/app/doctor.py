"""`rmdnet doctor`: what is installed, which devices there are, what is prepared, what is missing.

Nothing here raises an error or waits for long: whoever asks has enough trouble already.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import rmdnet_jax
from rmdnet_jax.app.command import Parser
from rmdnet_jax.errors import UserError, first_line

CORE = (  # what a run needs: the packages of setup.cfg, and jaxlib
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml-collections", "clu",
    "scikit-learn", "scipy", "pandas", "pyarrow", "pillow", "matplotlib", "safetensors", "tqdm",
    "tensorflow-datasets",
    *(("array-record",) if sys.platform == "linux" else ()), "importlib_resources",
)  # fmt: skip
IMPORTS = {"orbax-checkpoint": "orbax.checkpoint", "scikit-learn": "sklearn", "pillow": "PIL"}
EXTRAS = {  # package: what it is for, and the extra that brings it
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
Found = tuple[dict[str, Any], list[str]]  # plain values, and the lines that say them


def main(argv: list[str] | None = None) -> int:
    """Prints what it finds; returns 0 where a run has all that it needs, else 1."""
    parser = Parser(prog="rmdnet doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    args, (found, lines) = parser.parse_args(argv), examine()
    print(json.dumps(found, indent=2) if args.json else "\n".join(lines))
    return int(bool(found["missing"]))


def examine() -> Found:
    """All that is found; `missing` lists in words what a run cannot do without."""
    found, lines = {}, []
    for name, section in SECTIONS.items():
        try:
            found[name], said = section()
        except Exception as error:  # a report must not end in a traceback
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            said = [kind + first_line(error)]
            found[name] = {"error": said[0]}
        lines += [name, *(f"  {line}" for line in said)]
    absent = [name for name, value in found["versions"].items() if value is None]
    lacks = found["missing"] = [f"{name}: pip install '{name}'" for name in absent]
    if error := found["devices"].get("error"):
        lacks.append(f"a device that JAX can use: {error}")
    lines += [f"missing: {what}" for what in lacks]
    verdict = "a run needs what is missing above" if lacks else "all that a run needs is here"
    return found, [*lines, verdict]


def there(module: str) -> bool:
    """Whether a module could be imported; does not import it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def version(name: str) -> str | None:
    """A package's version; None: it is not there."""
    if not there(IMPORTS.get(name, name.replace("-", "_"))):
        return None
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(version unknown)"


def versions() -> Found:
    """The versions of Python, of this package and of those that a run needs."""
    found = {"python": platform.python_version(), "rmdnet_jax": rmdnet_jax.__version__}
    found |= {name: version(name) for name in CORE}
    return found, [f"{name:20} {value or 'not installed'}" for name, value in found.items()]


def cores() -> int | None:
    """The processor's cores that this process may use."""
    usable = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(usable(0)) if usable else os.cpu_count()


def machine() -> Found:
    """The system, its cores and its memory in GiB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if os.name == "posix" else 0
    system, gib = platform.platform(terse=True), round(memory / 2**30, 1) or None
    said = f"{gib} GiB of memory" if gib else "memory unknown"
    found = {"system": system, "cores": cores(), "memory_gib": gib}
    return found, [f"{system}, {found['cores']} cores, {said}"]


def devices() -> Found:
    """JAX's platform and devices, asked in another process: a driver may hang or crash."""
    free = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # a run may hold the memory
    command = [sys.executable, "-c", DEVICES]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=free)
    except subprocess.TimeoutExpired:
        raise UserError(f"no answer within {SECONDS:g} s") from None
    if run.returncode:
        lines = [line.strip() for line in run.stderr.splitlines() if line.strip()]
        raise UserError(lines[-1][:200] if lines else f"JAX ended with status {run.returncode}")
    found = json.loads(run.stdout.splitlines()[-1])
    idle = found["platform"] == "cpu" and any(pathlib.Path("/dev").glob("nvidia[0-9]*"))
    kinds, advice = ", ".join(found["kinds"]), [IDLE] if idle else []
    line = f"{found['count']} x {kinds} (JAX's platform {found['platform']})"
    return found | {"advice": "".join(advice)}, [line, *advice]


def caches() -> Found:
    """The folders of decoded images and of compiled programs."""
    from rmdnet_jax.data import store  # which needs NumPy: perhaps that is what is missing

    programs = pathlib.Path(store.compiled())
    found = {"images": folder(store.root(), without=programs), "programs": folder(programs)}
    lines = []
    for title, about in zip(("decoded images", "compiled programs"), found.values()):
        locked = "" if about["writable"] else ": cannot be written, so each run makes its own anew"
        lines.append(f"{title:20} {about['path']}, {about['mib']} MiB{locked}")
    return found, lines


def folder(path: pathlib.Path, without: pathlib.Path | None = None) -> dict[str, Any]:
    """A folder's path, its size in MiB, and whether files can be made there or where it will be."""
    files = [p for p in path.rglob("*") if p.is_file() and without not in p.parents]
    mib = round(sum(file.stat().st_size for file in files) / 2**20, 1)
    nearest = next(place for place in (path, *path.parents) if place.exists())
    return {
        "path": str(path),
        "mib": mib,
        "writable": nearest.is_dir() and os.access(nearest, os.W_OK),
    }


def data() -> Found:
    """Which data can be read: the digits, and the data sets that TFDS prepared."""
    place = pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    infos = [info for depth in ("*/*", "*/*/*") for info in place.glob(f"{depth}/features.json")]
    whole = [info.parent for info in infos if info.with_name("dataset_info.json").exists()]
    names = sorted(path.relative_to(place).as_posix() for path in whole)
    digits, more = there("sklearn"), there("tensorflow")
    get = "to prepare others: pip install 'rmdnet_jax[tfds]'"
    others = "TensorFlow is here to prepare others" if more else get
    return {"digits": digits, "tfds_dir": str(place), "tfds": names, "can_prepare": more}, [
        f"digits               {'come with' if digits else 'need'} scikit-learn",
        f"prepared by TFDS     {', '.join(names) or 'none'} (in {place})",
        f"others               {others}",
    ]


def extras() -> Found:
    """The packages that some runs need: whether each is there, what for, how to get it."""
    found, lines = {}, []
    for name, (what, extra) in EXTRAS.items():
        get, here = f"pip install 'rmdnet_jax[{extra}]'", there(name)
        found[name] = {"there": here, "for": what, "get": get}
        lines.append(f"{name:20} {f'here: {what}' if here else f'not here: {what}; {get}'}")
    return found, lines


SECTIONS: dict[str, Callable[[], Found]] = {
    section.__name__: section for section in (versions, machine, devices, caches, data, extras)
}

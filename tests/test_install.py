"""The wheel alone, away from the clone: it holds all modules and presets, and a preset runs.

`.ci/release` does more, with the network: empty environments of each Python.
"""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile

import pytest
from conftest import ROOT

PARTS = (
    "rmdnet_jax", "configs", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE",
)  # fmt: skip
SDIST = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"


def command(*arguments, **options):
    run = subprocess.run(
        [str(argument) for argument in arguments], capture_output=True, text=True, **options
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-3000:]
    return run.stdout


@pytest.fixture(scope="session")
def files():
    """The files of the repository, below its root."""
    if shutil.which("git"):
        words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        if not run.returncode:
            return {name for name in run.stdout.splitlines() if (ROOT / name).is_file()}
    # No clone, such as an unpacked source archive: what the wheel needs.
    found = [path for part in PARTS for path in (ROOT / part, *(ROOT / part).rglob("*"))]
    found = [path for path in found if path.is_file() and path.parent.name != "__pycache__"]
    return {path.relative_to(ROOT).as_posix() for path in found}


@pytest.fixture(scope="session")
def archive(files, tmp_path_factory):
    """The source archive of a copy: what a build leaves in the clone could hide what is missing."""
    if importlib.util.find_spec("setuptools") is None or importlib.util.find_spec("pip") is None:
        pytest.skip("building a wheel without a network needs pip and setuptools")
    folder = tmp_path_factory.mktemp("archive")
    for name in files:
        (place := folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place)
    out = command(sys.executable, "-c", SDIST, folder, cwd=folder / "copy")
    return folder / out.splitlines()[-1]


@pytest.fixture(scope="session")
def wheel(archive, tmp_path_factory):
    """The wheel, made from the source archive: what that lacks is missed here."""
    folder = tmp_path_factory.mktemp("wheel")
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    command(sys.executable, "-m", "pip", "wheel", *quiet, "--wheel-dir", folder, archive)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def away(wheel, tmp_path_factory):
    """An environment that sees this one's packages, and of this project the wheel only.

    Returns its interpreter. Paths of this environment's .pth files, such as that of an editable
    install, are not followed.
    """
    folder = tmp_path_factory.mktemp("away")
    command(sys.executable, "-m", "venv", "--without-pip", folder)
    here = command(sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    there = next(folder.glob("lib*/python*/site-packages"), folder / "Lib/site-packages")
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-warn-script-location"]
    command(sys.executable, "-m", "pip", "install", *quiet, "--target", there, wheel)
    paths = [here.strip(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    (there / "packages.pth").write_text("\n".join(paths) + "\n")
    return next(folder.glob("[bS]*/python*"))


def test_the_source_archive_holds_the_repository(archive, files):
    with tarfile.open(archive) as opened:
        found = {m.name.partition("/")[2] for m in opened.getmembers() if m.isfile()}
    made = {name for name in found if name == "PKG-INFO" or ".egg-info/" in name}
    assert found - made == files


def test_the_wheel_holds_the_package_and_the_presets(wheel):
    found = set(zipfile.ZipFile(wheel).namelist())
    kinds = [(ROOT / "rmdnet_jax").rglob(f"*.{kind}") for kind in ("py", "html")]
    modules = {path.relative_to(ROOT).as_posix() for found in kinds for path in found}
    presets = {f"rmdnet_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert len(presets) > 10
    own = {name for name in found if ".dist-info/" not in name}
    assert own == modules | presets | {"rmdnet_jax/py.typed"}


def test_the_wheel_tells_its_version_without_importing_itself(wheel):
    import rmdnet_jax

    assert wheel.name == f"rmdnet_jax-{rmdnet_jax.__version__}-py3-none-any.whl"


def test_one_version_and_its_date_stand_everywhere():
    import rmdnet_jax

    sections = r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$"
    newest = re.findall(sections, (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    citation = (ROOT / "CITATION.cff").read_text()
    cited = re.findall(r"^(?:version: |date-released: )\"?([^\"\n]+)", citation, re.MULTILINE)
    assert newest[0] == rmdnet_jax.__version__
    assert (*cited,) == newest


def test_the_core_needs_no_tensorflow(wheel):
    archive = zipfile.ZipFile(wheel)
    name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
    lines = archive.read(name).decode().splitlines()
    needs = [line.removeprefix("Requires-Dist: ") for line in lines if "Requires-Dist" in line]
    core = [need for need in needs if "extra ==" not in need]
    assert any(need.startswith("jax") for need in core)
    assert not [need for need in core if need.startswith(("tensorflow-cpu", "tensorboard"))]


def test_a_preset_runs_away_from_the_clone(away, tmp_path):
    environment = os.environ | {"RMDNET_CACHE": str(tmp_path / "cache")}
    environment.pop("PYTHONPATH", None)

    def run(*arguments):
        return command(*arguments, cwd=tmp_path, env=environment)

    place = run(away, "-c", "import rmdnet_jax; print(rmdnet_jax.__file__)").strip()
    assert pathlib.Path(place).is_relative_to(away.parent.parent), "not the clone"
    script = next(away.parent.parent.glob("**/bin/rmdnet"), None)
    run(away, script, "train", "--config", "digits:quick", "--workdir", "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary
    assert "doctor" in run(away, script)
    assert "--workdir" in run(away, "-m", "rmdnet_jax.main", "--help")

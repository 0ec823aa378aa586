"""The house rules: imports go down, each third-party package has one home, nothing heavy is imported unasked."""

import ast
import pathlib
import subprocess
import sys

import pytest
from conftest import ROOT

# From the ground up. A module may import from its own layer and from those below.
LAYERS = (
    ("errors", "types", "sharding", "files"),
    ("losses", "evaluation", "relations", "labels"),
    ("data", "networks", "methods", "ssl"),
    ("training",),
    ("app",),
    ("main", "cli"),
)
HOMES = {
    "flax": {"networks"},
    "orbax": {"training"},
    "clu": {"training"},
    "tensorflow_datasets": {"data"},
    "requests": {"data"},
    "tensorflow": {"data"},
    "ml_collections": {"app", "main"},
    "optax": {"losses", "training"},
    "matplotlib": {"app"},
    "sklearn": {"data", "evaluation"},
    "faiss": {"relations"},
    "PIL": {"data"},
    "tqdm": {"training", "data", "app"},
    "absl": {"main"},
    "safetensors": {"networks"},
    "torch": {"networks"},
    "pandas": {"labels"},
}
FILES = sorted((ROOT / "rmdnet_jax").rglob("*.py"))


def name_of(path):
    parts = path.relative_to(ROOT / "rmdnet_jax").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def level(name):
    return next(i for i, names in enumerate(LAYERS) if name.split(".")[0] in names)


def imported(path):
    """Every dotted name that a file imports, `from a import b` as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path):
    modules = {name_of(p) for p in FILES}
    for name in imported(path):
        if name.startswith("rmdnet_jax."):
            parts = name.removeprefix("rmdnet_jax.").split(".")
            yield next(
                (
                    ".".join(parts[:n])
                    for n in range(len(parts), 0, -1)
                    if ".".join(parts[:n]) in modules
                ),
                parts[0],
            )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down(path):
    name = name_of(path)
    if name:
        assert [other for other in own_imports(path) if level(other) > level(name)] == []


def test_no_import_circles():
    graph = {name_of(path): set(own_imports(path)) - {name_of(path)} for path in FILES}
    while graph:
        free = [name for name, needs in graph.items() if not needs & graph.keys()]
        assert free, f"these import each other: {sorted(graph)}"
        for name in free:
            del graph[name]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_each_package_has_its_home(path):
    allowed = {"jax", "numpy", "rmdnet_jax"} | {
        package for package, homes in HOMES.items() if name_of(path).split(".")[0] in homes
    }
    found = {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names)
    assert found <= allowed


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_keep_their_size(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long"


def test_a_digits_run_never_imports_tensorflow(tmp_path):
    """Nor TFDS, whose import alone takes a second."""
    code = (
        "import sys\nfrom rmdnet_jax import main\n"
        f"status = main.main(['x', '--config', 'configs/digits.py:quick', '--workdir', {str(tmp_path)!r}])\n"
        "print(status, sorted({'tensorflow', 'tensorflow_datasets', 'torch'} & sys.modules.keys()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "0 []", run.stderr
    assert pathlib.Path(tmp_path, "figures", "accuracy.png").stat().st_size > 1000

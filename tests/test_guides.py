"""Every script of docs/guides runs as it stands, is short, and says nothing that it should not."""

import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPTS = sorted((ROOT / "docs" / "guides").glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_guide_runs_as_it_stands(path, tmp_path):
    assert len(path.read_text().splitlines()) <= 30
    done = subprocess.run([sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "it shows what it found"

"""What is made of the rows of `benchmarks.scaling`."""

import json

import pytest

from benchmarks import pods, scaling, scaling_model
from benchmarks.cost_figures import placed
from tests.conftest import ROOT


def test_a_line_is_found_where_there_is_one():
    rows = [{"batch": n, "ms": {"median": 5 + 0.25 * n}} for n in (32, 64, 512)]
    assert scaling_model.line(rows) == pytest.approx((5, 0.25, 0), abs=1e-9)
    rows[1]["ms"]["median"] *= 1.2  # far off: each row counts by its relative error
    a, b, off = scaling_model.line(rows)
    assert off == max(abs((a + b * r["batch"]) / r["ms"]["median"] - 1) for r in rows)
    assert 0.05 < off < 0.2


def test_a_step_is_no_faster_than_its_slowest_part():
    step = {
        "name": "guided",
        "batch": 1000,
        "flops": 197e12 * 0.010,
        "bytes": 819e9 * 0.050,
        "collectives": [{"bytes": 1e9, "times": 2}],
    }
    found = dict(scaling_model.of_a_step(step, 16))
    stage = "relation-guided learning"
    assert found[f"{stage}: ms a step at the ceilings"] == "products 10, memory 50, exchange 10"
    assert found[f"{stage}: images a second, at most"] == "20,000"
    assert found[f"{stage}: an epoch, at least"] == "100,000 steps, 83 minutes"
    # 16 chips: 20,000 / 16 * 8 = 10,000 a host, of 112 cores
    told = next(value for name, value in found.items() if "decode" in name)
    assert told == "10,000: 11 ms of a core an image"


def test_the_page_shows_what_was_measured():
    found = json.loads((ROOT / scaling.FILE).read_text())
    rows = found["rows"]
    blocks = json.loads((ROOT / pods.FILE).read_text())
    text = (ROOT / scaling.PAGE).read_text()
    for name, table in (
        ("steps", scaling_model.steps(rows, found["environment"])),
        ("prediction", scaling_model.prediction(rows, blocks)),
    ):
        assert placed(text, table, scaling_model.MARKS[name]) == text
    assert {row["grows"] for row in rows} == {"batch", "devices", "processes", "files"}

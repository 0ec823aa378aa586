"""What the cost benchmark measures, counts and shows."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from benchmarks import cost, cost_figures, cost_runs, cost_steps, speed

PROGRAM = """HloModule step

%inner (x: f32[8,4]) -> f32[8,4] {
  %y = f32[8,4]{1,0} add(%x, %x)
}

ENTRY %main (p: f32[8,4], q: pred[8]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0), metadata={op_name="p"}
  %q = pred[8]{0} parameter(1)
  %a.1 = bf16[8,4]{1,0} fusion(%p, %q), kind=kLoop, calls=%inner
  %b = (bf16[8,4]{1,0}, u8[16]{0}) custom-call(%a.1), custom_call_target="c"
  %c = bf16[8,4]{1,0} get-tuple-element(%b), index=0
  ROOT %d = f32[8,4]{1,0} fusion(%c, %p), kind=kLoop, calls=%inner
}
"""


def test_each_kernel_reads_and_writes_what_the_program_says():
    p, q, a, b, d = 8 * 4 * 4, 8, 8 * 4 * 2, 8 * 4 * 2 + 16, 8 * 4 * 4
    assert cost_steps.kernels(PROGRAM) == [a + p + q, b + a, d + a + p]


def test_bytes_from_a_programs_text_are_those_that_its_compiler_counts():
    """One product, which no compiler splits or merges."""
    x, y = jnp.ones((64, 32)), jnp.ones((32, 16))
    program = jax.jit(jnp.matmul).lower(x, y).compile()
    found = cost_steps.facts(program)
    assert found["bytes"] == 4 * (64 * 32 + 32 * 16 + 64 * 16)
    assert found["bytes"] <= sum(cost_steps.kernels(program.as_text()))
    assert found["flops"] == 2 * 64 * 32 * 16
    assert found["argument_bytes"] == 4 * (64 * 32 + 32 * 16)
    assert cost_steps.facts(program, 7.0)["flops"] == 7.0
    unknown = types.SimpleNamespace(
        memory_analysis=program.memory_analysis, cost_analysis=dict, as_text=lambda: PROGRAM
    )
    assert cost_steps.facts(unknown, 7.0)["bytes"] == sum(cost_steps.kernels(PROGRAM))


@pytest.mark.parametrize(("seconds", "rounds"), [(1e9, 3), (0.0, 1)])
def test_runs_take_turns_and_none_always_comes_first(monkeypatch, seconds, rounds):
    monkeypatch.setattr(cost_steps, "WARM", 0)
    ran = []
    monkeypatch.setattr(cost_steps.time, "perf_counter", lambda: float(len(ran)))
    runs = {name: lambda name=name: ran.append(name) for name in "abcd"}
    monkeypatch.setattr(cost_steps, "LEAST", 1.0)  # the clock is the count of what ran
    took = cost_steps.in_turns(runs, 12, seconds)
    assert took == {name: [1000.0] * 4 * rounds for name in "abcd"}
    turns = ["".join(ran[i : i + 4]) for i in range(0, len(ran), 4)]
    assert turns == ["abcd", "bcda", "cdab", "dabc"] * rounds


def test_short_runs_are_repeated_within_a_turn(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(cost_steps.time, "perf_counter", lambda: clock[0])
    calls = []

    def run():
        clock[0] += 0.0625
        calls.append(1)

    took = cost_steps.in_turns({"a": run}, 2, 1e9)
    assert took == {"a": [62.5, 62.5]}
    assert len(calls) == (cost_steps.WARM + 2) * int(np.ceil(cost_steps.LEAST / 0.0625))


def test_the_first_epoch_counts_as_the_median_of_the_others():
    marks = [100.0, 101.0, 103.0, 104.0]  # the first one compiled for long
    lengths = [1.0, 1.0, 2.0, 1.0]
    assert cost_runs.ends(marks) == list(np.cumsum(lengths))


def test_a_block_replaces_that_of_its_part_and_network():
    one, two = {"part": "steps", "network": "cnn"}, {"part": "h100", "network": "cnn"}
    new = {**one, "batch": 4}
    assert cost.merged([one, two], new) == [two, new]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--networks", "resnet50"], "needs --compile or --h100"),
        (["--networks", "vgg"], "--networks must be out of"),
        (["--methods", "ce,guess"], "got guess"),
        (["--digits", "--epochs", "1"], "at least 2"),
        (["--h100", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_what_cannot_be_measured_is_refused(words, said, capsys):
    with pytest.raises(SystemExit):
        cost.flags(words)
    assert said in capsys.readouterr().err


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    """Steps of a small network, run and compiled."""
    data = str(tmp_path_factory.mktemp("cost") / "data.npz")
    speed.write_data(data, 32, 32, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost_steps, "LEAST", 1e-9)
        rows = cost_steps.rows_of(data, "cnn", "ce", 16, None, (4, 0.0))
    return {"part": "steps", "network": "cnn", "batch": 16, "rows": rows}


def test_a_teacher_online_costs_a_forward_pass_and_a_stored_one_next_to_nothing(block):
    row = {row["variant"]: row for row in block["rows"]}
    assert list(row) == list(cost_steps.VARIANTS) == list(cost_figures.TITLES)
    alone = row["alone"]["flops"]
    # of forward, gradient by weights and gradient by inputs the teacher runs the first
    assert 1.2 < row["online"]["flops"] / alone < 1.5
    assert 1.0 < row["stored"]["flops"] / alone < 1.03
    assert row["corrected"]["flops"] == pytest.approx(alone, rel=0.01)
    for one in row.values():
        assert one["ms"]["n"] == one["times"]["n"] == 4
        assert one["images_per_second"] == pytest.approx(16e3 / one["ms"]["median"])
    assert row["alone"]["times"] == {"median": 1.0, "low": 1.0, "high": 1.0, "n": 4}


@pytest.fixture(scope="module")
def digits():
    """Whole runs of two epochs."""
    variants = cost_steps.VARIANTS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost_runs, "digits", small)
        rows = [*cost_runs.whole(["ce"], [0], 2, 2, variants)]
    return {"part": "digits", "network": "digits", "rows": rows}


def small():
    from rmdnet_jax.app.overrides import override
    from rmdnet_jax.app.presets import digits

    return override(digits(), {"batch_size": 64, "limit": 256, "encoder.widths": (4, 8)})


def test_whole_runs_are_timed_epoch_by_epoch(digits):
    rows = digits["rows"]
    assert [row["variant"] for row in rows] == ["teacher", *cost_steps.VARIANTS]
    for row in rows:
        assert len(row["ends"]) == len(row["accuracies"]) == 2
        assert 0 < row["ends"][0] < row["ends"][1]
    said = {row["variant"]: row["accuracies"] for row in rows}
    # without augmentation a stored feature is what the teacher says online
    assert said["online"] == pytest.approx(said["stored"], abs=0.02)


def test_the_table_and_the_figure_say_what_was_measured(block, digits, tmp_path):
    for blocks in ([block, digits], [block], [digits], []):
        text = cost_figures.tables(blocks, 0.9)
        assert text.count("cost.png") == (digits in blocks)
        cost_figures.figure(blocks, tmp_path / "cost.png")
        assert (tmp_path / "cost.png").exists() == (digits in blocks)
        (tmp_path / "cost.png").unlink(missing_ok=True)
    row = {row["variant"]: row for row in block["rows"]}
    text = cost_figures.tables([block], 0.9)
    assert f"**{row['alone']['ms']['median']:.1f}**" in text
    assert f"{row['online']['flops'] / row['alone']['flops']:.2f}" in text
    (share,) = cost_figures.shares([block, digits])
    assert f"{100 * (row['stored']['flops'] / row['alone']['flops'] - 1):+.2f} %" in share


def run(ends, accuracies, seed=0, variant="alone"):
    return {"seed": seed, "method": "ce", "variant": variant, "ends": ends,
            "accuracies": accuracies}  # fmt: skip


def test_cost_to_an_accuracy_is_that_of_the_first_epoch_that_has_it():
    rises = run([1.0, 2.0, 3.0], [0.5, 0.92, 0.7])
    assert cost_figures.reached(rises, 0.9) == 2.0
    assert cost_figures.reached(rises, 0.95) is None
    teacher = {**run([4.0], [0.9]), "variant": "teacher", "method": "",
               "feature_seconds": 0.5, "correction_seconds": 0.25}  # fmt: skip
    never = run([1.0, 2.0, 4.0], [0.5, 0.6, 0.8], seed=1)
    rows = [teacher, rises, never]
    text = cost_figures.tables([{"part": "digits", "network": "digits", "rows": rows}], 0.9)
    spread = np.std([70, 80], ddof=1)
    assert f"2.0 (1 of 2) of 3.5; **75.0** ± {spread:.1f}" in text
    assert "stage 1 takes 4 s, its features 0.5 s, corrected labels 0.25 s" in text


def test_the_page_shows_what_the_file_says():
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    known = json.loads((ROOT / "docs" / "cost.json").read_text())
    accuracy = 0.9
    assert cost_figures.placed(page, cost_figures.tables(known, accuracy)) == page


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(SystemExit, match="no lines"):
        cost_figures.placed("# Page\n", "text")

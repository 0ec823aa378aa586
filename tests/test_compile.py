"""`rmdnet compile`: what is asked of a compiler, what is read from its programs, what is said."""

import functools
import itertools
import json
import os
import re
import subprocess
import sys
import tracemalloc

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT, tiny
from jax._src.cloud_tpu_init import get_tpu_library_path
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import cost_figures, pods
from rmdnet_jax import cli, sharding
from rmdnet_jax.app import learning, setup
from rmdnet_jax.app.compile import command, facts, programs, target, words
from rmdnet_jax.app.compile.programs import Data
from rmdnet_jax.app.compile.target import Target
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.errors import UserError
from rmdnet_jax.training import steps
from rmdnet_jax.types import AXIS

PROGRAM = """HloModule jit__loop, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[8]}

%fused (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %sum.1 = f32[4]{0} all-reduce(%x), channel_id=3, frontend_attributes={chain_id="1"}
  ROOT %y = f32[8,4]{1,0} add(%x, %x)
}

%body.2 (p: (f32[8,4], s32[])) -> (f32[8,4], s32[]) {
  %p = (f32[8,4]{1,0:T(8,128)}, s32[]{:T(128)}) parameter(0)
  %a = f32[8,4]{1,0:T(8,128)} get-tuple-element(%p), index=0
  %b = bf16[8,4]{1,0} fusion(%a), kind=kLoop, calls=%fused
  %sum.2 = f32[4]{0} all-reduce(%x), channel_id=3, frontend_attributes={chain_id="1"}
  %sum.3 = f32[4]{0} all-reduce(%x), channel_id=4, frontend_attributes={chain_id="1"}
  %begun = ((f32[2,4]{1,0}, u8[3]{0}), (f32[8,4]{1,0}, /*index=1*/u8[12]{0})) all-gather-start(%a, %b), channel_id=5
  %done = (f32[8,4]{1,0}, u8[12]{0}) all-gather-done(%begun)
  %plain = (f32[7]{0}, f32[9]{0}) all-reduce-start(%a, %b), channel_id=7
  %twice = ((f32[7]{0}), f32[7]{0}) all-reduce-start(%a), channel_id=8
  %sent = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%a), channel_id=6
}

%cond.2 (q: (f32[8,4], s32[])) -> pred[] {
  ROOT %less = pred[] compare(%q, %q), direction=LT
}

ENTRY %main (first: f32[8,4]) -> f32[8] {
  %first = f32[8,4]{1,0} parameter(0)
  %pair = (f32[8,4]{1,0}, s32[]) tuple(%first, %first)
  %loop = (f32[8,4]{1,0}, s32[]) while(%pair), condition=%cond.2, body=%body.2
  ROOT %last = f32[8]{0} fusion(%first), kind=kLoop, calls=%fused
}
"""  # noqa: E501  # as compilers write it


def test_a_loop_is_counted_once_and_its_kernels_read_and_write_what_they_say():
    full, half = 8 * 4 * 4, 8 * 4 * 2
    found = facts.kernels(PROGRAM)
    assert found[0] == half + full  # of the body's first kernel
    assert found[-1] == 8 * 4 + full  # behind the loop
    assert len(found) == 8 + 1
    without = PROGRAM.replace("while(", "custom-call(")
    assert facts.kernels(without)[-1] == found[-1]
    assert len(facts.kernels(without)) == 2


def test_collectives_are_told_apart_by_channel_and_counted_by_what_they_give():
    found = {(one.kind, one.shape): one for one in facts.exchanged(PROGRAM)}
    assert {name: (one.bytes, one.times) for name, one in found.items()} == {
        ("all-reduce", "f32[4]"): (4 * 4, 2),  # the first stands in a fusion, too
        ("all-reduce", "f32[7], f32[9]"): (4 * 7 + 4 * 9, 1),  # as a TPU's program has it
        ("all-reduce", "f32[7]"): (4 * 7, 1),  # as a GPU's has it
        ("all-gather", "f32[8,4], u8[12]"): (8 * 4 * 4 + 12, 1),
        ("collective-permute", "f32[8]"): (8 * 4, 1),
    }
    sizes = [one.bytes for one in facts.exchanged(PROGRAM)]
    assert sizes == sorted(sizes, reverse=True)


def test_a_real_program_exchanges_the_sum_that_it_must():
    mesh = sharding.mesh()
    split = NamedSharding(mesh, PartitionSpec(AXIS))
    x = jax.ShapeDtypeStruct((64, 24), jnp.float32, sharding=split)
    program = jax.jit(lambda x: x.sum(0), out_shardings=sharding.everywhere(mesh)).lower(x)
    found = facts.facts(program.compile())
    (one,) = found.collectives
    assert (one.kind, one.bytes, one.times) == ("all-reduce", 24 * 4, 1)
    assert found.arguments == 64 * 24 * 4 // mesh.size
    assert found.others >= 24 * 4


@pytest.mark.parametrize("memory", [10_000, 123_457, 10**9])
def test_the_batch_that_fits_is_the_largest_that_does(memory):
    batch, chips, fixed, growing = 512, 4, 1000, 777
    found = facts.largest_batch(batch, chips, memory, fixed, growing)
    assert found % chips == 0
    assert fixed + growing * found / batch <= memory < fixed + growing * (found + chips) / batch


def test_no_batch_fits_where_the_rest_does_not():
    assert facts.largest_batch(512, 4, 1000, 2000, 10) == 0


def test_a_compilers_refusal_is_read():
    text = "Ran out of memory in memory space hbm. Used 24.50G of 15.75G hbm. Exceeded hbm capacity"
    assert facts.too_much(text) == 24.5 * 2**30
    text = "Ran out of memory on HBM, the total memory required for HLO temporaries (2.00T) exceeds"
    assert facts.too_much(f"{text} available HBM (15.75G).") == 2 * 2**40
    assert facts.too_much("INTERNAL: something else") is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--topology", "v5e:2x2"], "the following arguments are required: --config"),
        (["--config", "digits"], "the following arguments are required: --topology"),
        (["--config", "digits", "--topology", "v5:2x2"], "did you mean v5e:2x2"),
        (["--config", "digits", "--topology", "v5e"], "must be one of the known names, got 'v5e'"),
        (["--config", "digits", "--topology", "v5e:2x2x2"], "did you mean v5e:2x2"),
        (["--config", "digits", "--topology", "v5e"], "v5e:16x16"),
        (["--config", "digits", "--topology", "v5p:2x2"], "did you mean v5p:2x2x"),
        (["--config", "digits", "--topology", "h100"], "did you mean h100:8 or h100:1"),
        (["--config", "digits", "--topology", "h100:0"], "got 'h100:0'"),
        (["--config", "digit", "--topology", "v5e:2x2"], "did you mean digits"),
        (["--config", "digits", "--topology", "v5e:2x2", "--image", "32x32"], "as in 32x32x3"),
        (["--config", "digits", "--topology", "v5e:2x2", "--image", "0x2x3"], "got '0x2x3'"),
        (["--config", "digits", "--topology", "v5e:2x2", "--examples", "1"], "--examples must be"),
        (["--config", "digits", "--topology", "v5e:2x2", "--only", "gided"], "be out of data, mod"),
        (["--config", "digits", "--topology", "v5e:2x2", "--config.rate"], "needs a value"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(monkeypatch, capsys, words, said):
    monkeypatch.setattr(command, "prepare", lambda: None)  # JAX is started here already
    assert cli.main(["compile", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("rmdnet: ")


@pytest.mark.skipif(bool(get_tpu_library_path()), reason="libtpu is installed here")
def test_without_libtpu_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(command, "prepare", lambda: None)
    assert cli.main(["compile", "--config", "digits", "--topology", "v5e:2x2"]) == 2
    assert "pip install 'rmdnet_jax[tpu]'" in capsys.readouterr().err


def test_data_that_are_not_here_are_told_or_asked_for():
    config = resolve(tiny(**{"data.name": "folder", "data.dir": "nowhere"}))
    args, _ = command.read(["--config", "x", "--topology", "y", "--examples", "100"])
    with pytest.raises(UserError, match=r"nowhere.*need --examples, --classes and --image"):
        command.shapes(config, args)
    words = ["--classes", "7", "--image", "20x30x3"]
    args, _ = command.read(["--config", "x", "--topology", "y", "--examples", "100", *words])
    assert command.shapes(config, args) == Data(100, 7, (20, 30, 3), 0)


def test_data_that_are_here_are_looked_at():
    args, _ = command.read(["--config", "x", "--topology", "y"])
    found = command.shapes(resolve(tiny(limit=100)), args)
    assert found == Data(100, 10, (8, 8, 1), 355)
    config = resolve(tiny(**{"data.name": "cifar100"}))
    assert command.shapes(config, args) == Data(256, 100, (32, 32, 3), 10_000)  # of its `limit`


@pytest.mark.parametrize(
    ("image", "asked", "near"),
    [(8, "auto", True), (5000, "auto", False), (8, "streaming", False), (5000, "resident", True)],
)
def test_images_lie_on_the_chips_where_they_fit_or_as_is_said(image, asked, near):
    config = tiny()
    config.data.unlock()
    config.data.pipeline = asked
    data = Data(100, 10, (image, image, 3))
    assert command.images_near(config, data, 2**30) == near


@pytest.fixture(scope="module")
def config():
    return resolve(
        tiny(
            **{
                "data.limit": 0,
                "relation_guided.edge.block": 16,
                "relation_modeling.batch_size": 160,
                "relation_guided.batch_size": 160,
                "targets": "propagated",
                "relation_guided.teacher_features": "stored",
            }
        )
    )


@pytest.fixture(scope="module")
def rows(config):
    """The programs of a tiny experiment, compiled for the eight devices that are here."""
    there = Target("here:8", sharding.mesh(), "CPU", 2**30, "cpu", "its version")
    data = Data(1442, 10, (8, 8, 1), 355)
    return {row["name"]: row for row in command.compiled(config, data, there, None)}


def test_each_program_of_a_run_is_there(rows):
    assert list(rows) == [*words.SAYS]
    assert all(row["fits"] for row in rows.values())


def test_the_data_lie_on_each_chip(rows):
    n, classes, dim = 1442, 10, 8
    column, rows_a_chip = 4 * n, 3072 // 8  # tables by example are padded, and split
    targets, teacher = 4 * rows_a_chip * classes, 4 * rows_a_chip * dim
    images, index = (n + 355) * 64, 4 * 160 // 8
    found = rows["data"]["argument_bytes"]
    assert found == pytest.approx(images + 3 * column + targets + teacher + index, rel=0.01)
    assert {row["data_bytes"] for name, row in rows.items() if name != "data"} == {found}


def bare(lowered):
    """A program's text without its constants: pixels' statistics are among them."""
    return re.sub(r"dense<[^>]*>", "dense<>", lowered.as_text())


def test_what_is_made_of_shapes_is_the_program_of_a_run(tmp_path):
    """The same experiment, set up with its data."""
    config = resolve(tiny(weight=0.0, **{"data.limit": 0}))
    made = setup.setup(config, tmp_path / "run")
    stage = learning.stage(made, learning.learner(made), made.arms[0])
    rows, frozen = stage.pipeline.batch(0), stage.objective.frozen
    state = steps.shapes(stage, made.mesh, rows)
    with jax.set_mesh(made.mesh):
        step = jax.jit(functools.partial(steps.step, stage), donate_argnums=0)
        real = step.lower(state, frozen, rows, sharding.replicate(made.mesh, stage.key))
    found = programs.programs(config, Data(1442, 10, (8, 8, 1), 355), made.mesh)
    (guided,) = (one for one in found if one.name == "guided")
    assert bare(guided.lower()) == bare(real)


def test_a_step_holds_its_state_and_its_part_of_the_batch(rows):
    n, taps = 160 // 8, 9
    parameters = taps * (1 * 4 + 4 * 8) + 2 * (4 + 8) + 8 * 10 + 10
    statistics = 2 * (4 + 8)
    momentum = parameters
    batch = n * (64 + 3 * 4 + 4 * 10 + 4 * 8)  # with targets, and the teacher's features
    found = rows["guided"]["argument_bytes"]
    least = 4 * (parameters + statistics + momentum) + batch
    assert least <= found <= least + 200  # the step, sums of the epoch, the key


def test_no_collective_is_of_all_pairs_or_of_the_data(rows):
    """Batches of 160 and 1442 examples: no layer has such a width."""
    for row in rows.values():
        for one in row["collectives"] if row["batch"] else ():
            sizes = [int(n) for n in one["shape"].replace("]", ",").replace("[", ",").split(",")
                     if n.strip().isdigit()]  # fmt: skip
            assert 1442 not in sizes
            assert sizes.count(160) < 2
            assert not {160, 160 // 8} <= {*sizes}


def test_gradients_are_exchanged_once_a_step(rows):
    """Of the small CNN all arrays are, and nothing larger than all of them."""
    found = rows["guided"]["collectives"]
    assert {"all-reduce"} <= {one["kind"] for one in found}
    widths = (1, 4, 8)
    kernels = sum(9 * a * b for a, b in itertools.pairwise(widths)) + 8 * 10
    told = sum(one["bytes"] * one["times"] for one in found if one["kind"] == "all-reduce")
    assert 4 * kernels <= told < 40 * kernels


def test_nothing_of_the_size_of_the_data_is_made(config):
    tracemalloc.start()
    data = Data(3_000_000, 10, (32, 32, 3), 10_000)
    found = [*programs.programs(config, data, sharding.mesh())]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == len(words.SAYS)
    assert peak < 40e6  # the images would be 9 GB; an index of all is 12 MB


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"relation_guided.batch_size": 100}, "relation_guided.batch_size must be divisible by"),
        ({"relation_modeling.batch_size": 10_000}, "relation_modeling.batch_size must be in"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(values, said):
    data = Data(1000, 10, (8, 8, 1))
    with pytest.raises(UserError, match=said):
        list(programs.programs(resolve(tiny(**values)), data, sharding.mesh()))


def test_what_a_config_splits_or_groups_is_compiled_so():
    """Tables by example lie in parts; with norms by groups devices exchange less."""

    def of(**values):
        config = resolve(tiny(**values))
        return {one.name: one for one in programs.programs(config, data, sharding.mesh())}

    data = programs.Data(1442, 10, (8, 8, 1))
    times = []
    for group in (0, 8):
        values = {"encoder.widths": (4, 4, 4, 4, 8), "encoder.norm_group": group}
        found = facts.facts(of(**values)["guided"].lower().compile())
        times.append(sum(one.times for one in found.collectives))
    assert times[1] < times[0]
    held = []
    for name in ("online", "stored"):
        made = of(**{"relation_guided.teacher_features": name})["data"].lower().compile()
        held.append(facts.facts(made).arguments)
    table = sharding.padded(1442) * 8 * 4  # float32, 8 features
    assert held[1] - held[0] == table // sharding.mesh().size
    with pytest.raises(UserError, match="anchors must be 0 where a run is compiled only, got 64"):
        of(**{"relation_guided.anchors": 64})


def test_choices_are_made_as_there_and_nowhere_else():
    before = jax.default_backend()
    choosing = target.choosing("tpu")
    with choosing:
        assert jax.default_backend() == "tpu"
    assert jax.default_backend() == before == "cpu"


def row(name, total, fits=True, **more):
    return {"name": name, "total_bytes": total, "fits": fits, "batch": 0, **more}


def test_the_verdict_is_said_in_plain_words():
    gb = 2**30
    collectives = [
        {"kind": "all-reduce", "shape": "f32[3,3,4,4]", "bytes": 3 * 2**20, "times": 2},
        {"kind": "all-gather", "shape": "f32[96,8]", "bytes": 2**20, "times": 1},
    ]
    step = row("guided", 5 * gb, batch=96, batch_that_fits=960, collectives=collectives,
               flops=2.5e9, bytes=3 * gb, unit="step")  # fmt: skip
    text = words.verdict([row("data", gb), step], 16 * gb)
    assert text.startswith("Fits: at most 5.00 of 16.0 GB a chip (relation-guided learning), 11.00")
    assert "exchanges 2 all-reduce of 6.0 MB, 1 all-gather of 1.0 MB; the largest is all-" in text
    assert "is a guess" in text
    told = words.line(step).split()
    assert told == ["relation-guided", "learning", "5.00", "960", "3", "7.0", "2.5", "3.00", "step"]
    heavy = row("modeling", 20 * gb, fits=False)
    text = words.verdict([step, heavy], 16 * gb)
    assert text.startswith("Does not fit: at most 20.00 of 16.0 GB a chip (relation modeling), 4.0")
    assert "does not fit" in words.line(heavy)
    broken = row("data", 0, fits=False, error="INTERNAL: no")
    assert words.line(broken).endswith("it does not compile: INTERNAL: no")
    assert "Cannot be compiled: gathering a batch" in words.verdict([broken, step], gb)


def test_the_pages_show_what_the_file_says():
    known = json.loads((ROOT / pods.FILE).read_text())
    for page, name, table in ((pods.SCALING, "pods", pods.pods), (pods.SPEED, "programs",
                                                                  pods.programs)):  # fmt: skip
        text = (ROOT / page).read_text()
        assert cost_figures.placed(text, table(known), pods.MARKS[name]) == text
        for block in known:
            assert (block["topology"] in text) or name == "programs"


def test_no_kept_step_exchanges_pairs_or_data_and_memory_is_flat():
    """What `docs/scaling.md` says of all of its pods."""
    held = {}
    for block, row in pods.steps(json.loads((ROOT / pods.FILE).read_text())):
        for one in row["collectives"]:
            assert not pods.of_all_pairs(one, row["batch"], block["chips"])
            assert not pods.of_the_data(one, block["data"]["examples"])
        kind = block["topology"].partition(":")[0]
        gathered = sum(x["bytes"] for x in row["collectives"] if x["kind"] == "all-gather")
        own = row["total_bytes"] - gathered  # a batch's features are all there on each chip
        held.setdefault((block["network"], row["name"], kind), []).append(own)
    for values in held.values():
        assert max(values) < 1.2 * min(values)


def test_a_collective_of_all_pairs_is_seen_by_its_shape():
    def one(shape):
        return {"shape": shape}

    assert pods.sizes(one("f32[3,384], u8[5]")) == [[3, 384], [5]]
    assert pods.of_all_pairs(one("f32[384,384]"), 384, 4)
    assert pods.of_all_pairs(one("bf16[96,384]"), 384, 4)
    assert not pods.of_all_pairs(one("f32[384,512]"), 384, 4)
    assert not pods.of_all_pairs(one("f32[384], f32[384,512]"), 384, 4)
    assert pods.of_the_data(one("f32[5], f32[50000,512]"), 50_000)


def test_a_program_takes_the_place_of_the_same_of_its_network_and_pod():
    old = [{"network": "cnn", "topology": "v5e:2x2", "programs": [{"name": "guided", "kernels": 1},
                                                                  {"name": "votes", "kernels": 2}]},
           {"network": "cnn", "topology": "v5e:4x4", "programs": []}]  # fmt: skip
    new = {**old[0], "programs": [{"name": "data", "kernels": 4}, {"name": "guided", "kernels": 3}]}
    kept, found = pods.merged(old, new)
    assert kept == old[1]
    assert [row["kernels"] for row in found["programs"]] == [4, 3, 2]
    assert pods.count("v5p:2x2x4") == 16


@pytest.mark.skipif(not get_tpu_library_path(), reason="libtpu is not installed: pip extra tpu")
def test_a_small_cnn_is_compiled_for_four_tpus_that_are_not_here(tmp_path):
    path = tmp_path / "found.json"
    words = ["--config", "digits:quick", "--topology", "v5e:2x2", "--json", str(path)]
    run = subprocess.run(
        [sys.executable, "-m", "rmdnet_jax.cli", "compile", *words, "--only", "guided,votes"],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "XLA_FLAGS": ""},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(path.read_text())
    assert (found["topology"], found["chips"]) == ("v5e:2x2", 4)
    assert [one["name"] for one in found["programs"]] == ["data", "guided", "votes"]
    data, step, _ = found["programs"]
    assert data["argument_bytes"] >= (1442 + 355) * 64
    assert step["collectives"]
    assert step["flops"] > 0
    assert 0 < step["temporary_bytes"] < 2**28
    assert "Fits: at most" in run.stdout

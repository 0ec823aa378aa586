"""Tables over runs: means, spreads, paired gains, and no mixing of columns."""

import json

import numpy as np
import pytest
from conftest import tiny

from rmdnet_jax import report
from rmdnet_jax.config import choose
from rmdnet_jax.methods import METHODS
from rmdnet_jax.types import UserError

OURS, BASE = np.array([0.80, 0.84, 0.79]), np.array([0.70, 0.71, 0.75])


@pytest.fixture
def runs(tmp_path):
    for seed, (ours, base) in enumerate(zip(OURS, BASE)):
        path = tmp_path / str(seed)
        path.mkdir()
        config = tiny(seed=seed, **{"noise.seed": seed})
        (path / "config.json").write_text(config.to_json())
        accuracy = {"last": ours, "best": 0.9}
        summary = {"relation_guided": {"test_accuracy": accuracy}, "controls": {"base": {"test_accuracy": {"last": base}}}}
        (path / "summary.json").write_text(json.dumps(summary))
    return [str(tmp_path / str(seed)) for seed in range(3)]


def test_a_table_pairs_gains_by_seed(runs):
    rows = report.compare(runs[::-1]).splitlines()
    gain = 100 * (OURS - BASE)
    base = next(row for row in rows if "| ce |" in row)
    assert f"| 3 | {100 * BASE.mean():.1f} ± {100 * BASE.std(ddof=1):.1f} |" in base
    assert f"{gain.mean():+.1f} ± {gain.std(ddof=1) / 3**0.5:.1f}" in base
    assert f"| 3 | {100 * OURS.mean():.1f} ± {100 * OURS.std(ddof=1):.1f} |" in next(row for row in rows if "+ RMDNet |" in row)


def test_each_method_is_held_against_itself_alone(runs, tmp_path):
    for seed, directory in enumerate(runs):
        path = tmp_path / f"elr-{seed}"
        path.mkdir()
        config = tiny(seed=seed, **{"relation_guided.method": choose(METHODS, "elr"), "teacher": directory})
        (path / "config.json").write_text(config.to_json())
        rows = {"relation_guided": OURS[seed] - 0.2, "base": BASE[seed] - 0.3}
        accuracy = {name: {"test_accuracy": {"last": value}} for name, value in rows.items()}
        (path / "summary.json").write_text(json.dumps({"relation_guided": accuracy.pop("relation_guided"), "controls": accuracy}))
    rows = report.compare([*runs, *(str(tmp_path / f"elr-{seed}") for seed in range(3))]).splitlines()
    for method, more in (("ce", 0), ("elr", 10)):
        gain = (100 * (OURS - BASE)).mean() + more
        assert f"{gain:+.1f} ±" in next(row for row in rows if f"| {method} |" in row)


def test_a_column_that_a_row_lacks_is_not_filled_from_another(runs):
    rows = report.compare(runs, column="best").splitlines()
    assert len(rows) == 3, "only the student has that column"
    assert "90.0 ± 0.0" in rows[2]


def test_best_keeps_the_settings_of_the_highest_mean(runs, tmp_path):
    config = tiny(seed=0, **{"relation_guided.epochs": 7})
    (tmp_path / "long").mkdir()
    (tmp_path / "long" / "config.json").write_text(config.to_json())
    summary = {"relation_guided": {"test_accuracy": {"last": 0.95}}, "controls": {}}
    (tmp_path / "long" / "summary.json").write_text(json.dumps(summary))
    directories = [*runs, str(tmp_path / "long")]
    assert len(report.compare(directories).splitlines()) == 2 + 3
    rows = report.compare(directories, best=True).splitlines()
    assert len(rows) == 2 + 2
    assert "epochs 7" in next(row for row in rows if "+ RMDNet |" in row)


def test_a_directory_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="nothing"):
        report.compare([str(tmp_path / "nothing")])


def test_relation_figures_need_features(tmp_path):
    report.relations({}, np.arange(3), 0.1, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    features = {"teacher": np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)}
    report.relations(features, np.sort(np.arange(20) % 4), 0.1, tmp_path / "some.png")
    assert (tmp_path / "some.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.filterwarnings("ignore")  # TensorFlow's own
def test_tensorboard_is_written_when_asked_for(tmp_path):
    pytest.importorskip("tensorflow", reason="TensorBoard's files are written by TensorFlow")
    from rmdnet_jax.metrics import Writer

    Writer(tmp_path / "quiet").metrics.of("x")
    tmp_path.joinpath("loud").mkdir()
    writer = Writer(tmp_path / "loud", tensorboard=True)
    writer.write("relation_guided", 5, {"loss": 1.0}, {"train_seconds": 1.0, "evaluate_seconds": 0.0, "images": 10})
    assert list((tmp_path / "loud" / "tensorboard").rglob("events*"))
    assert writer.metrics.of("relation_guided") == [{"stage": "relation_guided", "step": 5, "loss": 1.0}]
    assert writer.speed("relation_guided") == {"seconds": 1.0, "images_per_second": 10.0}

"""The loop: K = 0 is the base method, averages, epochs' means, what stops a run, devices, pipelines."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same, tiny
from ml_collections import ConfigDict

from rmdnet_jax import sharding
from rmdnet_jax.app import experiment
from rmdnet_jax.app.config import choose
from rmdnet_jax.app.setup import make_stage, setup
from rmdnet_jax.data import resident as pipeline
from rmdnet_jax.data.augment import AUGMENTATIONS
from rmdnet_jax.errors import UserError
from rmdnet_jax.labels.noise import KINDS, make
from rmdnet_jax.methods import METHODS
from rmdnet_jax.networks.encoders import ENCODERS
from rmdnet_jax.ssl import SSL
from rmdnet_jax.training import fit as training
from rmdnet_jax.training.objectives import Objective, Teacher, classifier, relation_guided
from rmdnet_jax.types import Batch, Outputs, Variables


def begin(stage):
    return training.initial(stage, stage.objective.frozen, stage.pipeline.batch(0), stage.key)


def records(workdir, stage):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [record for record in lines if record["stage"] == stage]


def base_only(student, method):
    """The base method's objective, written without any relation code."""

    def loss(params, stats, memory, frozen, batch, key, epoch):
        def forward(images):
            pairs = [
                student.apply(Variables(p, s), x.reshape(-1, *x.shape[2:]), True)
                for p, s, x in zip(params, stats, images, strict=True)
            ]
            views = [
                Outputs(*(y.reshape(method.views, -1, y.shape[-1]) for y in o)) for o, _ in pairs
            ]
            return tuple(views), tuple(new for _, new in pairs)

        outputs, new = forward([batch.image] * method.peers)
        value, memory, metrics = method.loss(
            outputs, batch, memory, lambda images: forward(images)[0], key, epoch
        )
        return value, (new, memory, metrics, jnp.argmax(sum(o.logits[0] for o in outputs), -1))

    def init(key, image):
        peers = [student.init(jax.random.fold_in(key, peer), image) for peer in range(method.peers)]
        return Variables(
            tuple(v.params for v in peers), tuple(v.stats for v in peers)
        ), method.init()

    return Objective(method.views, (), init, loss)


@pytest.mark.parametrize("name", METHODS)
def test_weight_zero_is_the_base_method_bit_for_bit(name, tmp_path):
    fields = {"warmup_epochs": 2} if name == "dividemix" else {}
    config = tiny(
        **{"relation_guided.weight": 0.0, "relation_guided.method": choose(METHODS, name, **fields)}
    )
    config.relation_guided.epochs = 3  # the third is after the warm-up
    made = setup(config, tmp_path)
    student, method = classifier(made.encoder, 10), METHODS[name](256, 10, **fields)
    plain = make_stage(made, "plain", 1, base_only(student, method), lambda *_: {})
    ours = experiment.guided_stages(made)("ours", None, 0.0, "random")._replace(
        evaluate=lambda *_: {}, refresh=None
    )
    one = training.fit(plain, made.mesh, tmp_path / "plain", 100, made.writer)
    two = training.fit(ours, made.mesh, tmp_path / "ours", 100, made.writer)
    assert_same(one.variables, two.variables)
    assert_same(one.totals, two.totals)


def test_a_control_is_the_run_of_weight_zero_bit_for_bit(tmp_path):
    experiment.run(tiny(controls=("base",)), tmp_path / "with")
    experiment.run(tiny(**{"relation_guided.weight": 0.0}), tmp_path / "zero")
    control, zero = (
        records(tmp_path / "with", "controls/base"),
        records(tmp_path / "zero", "relation_guided"),
    )
    assert [{**r, "stage": ""} for r in control] == [{**r, "stage": ""} for r in zero]
    assert not records(tmp_path / "zero", "relation_modeling"), (
        "no teacher is trained where none is needed"
    )


@pytest.mark.parametrize(
    ("ssl", "method"), [("simsiam", "ce"), ("simclr", "elr"), ("barlow_twins", "ce")]
)
def test_one_and_eight_devices_agree(ssl, method, tmp_path, monkeypatch):
    """Up to the order of additions, which a few steps do not amplify much; noise and order agree exactly.

    SimCLR's negatives and Barlow Twins' statistics are of the whole batch: of a device's part their losses would be others.
    """
    config = tiny(
        **{
            "relation_guided.optimizer.learning_rate": 0.01,
            "relation_modeling.optimizer.learning_rate": 0.01,
        }
    )
    with config.unlocked():
        config.relation_modeling.ssl = choose(SSL, ssl, projection=16, hidden=8)
        config.relation_guided.method = choose(METHODS, method)
    eight = experiment.run(config, tmp_path / "8")
    one_device = jax.make_mesh(
        (1,), ("data",), devices=jax.devices()[:1], axis_types=(jax.sharding.AxisType.Auto,)
    )
    monkeypatch.setattr(sharding, "mesh", lambda: one_device)
    one = experiment.run(config, tmp_path / "1")
    assert (one["environment"]["devices"], eight["environment"]["devices"]) == (1, 8)
    assert one["noise"] == eight["noise"]
    for stage in ("relation_modeling", "relation_guided"):
        for a, b in zip(
            records(tmp_path / "1", stage), records(tmp_path / "8", stage), strict=True
        ):
            assert a["loss"] == pytest.approx(b["loss"], rel=2e-3)


@pytest.mark.parametrize("features", ["online", "stored"])
def test_the_relation_terms_are_those_of_the_teachers_features(features, tmp_path):
    """Without augmentation both choices see the same image, so both must equal the terms written out."""
    config = tiny(**{"relation_guided.teacher_features": features})
    with config.unlocked():
        config.relation_guided.augmentation = choose(AUGMENTATIONS, "none")
    made = setup(config, tmp_path)
    teacher = made.encoder.init(jax.random.key(5), jnp.zeros((2, 8, 8, 1)))
    stage = experiment.guided_stages(made)("relation_guided", teacher, 2.0, "random")
    variables, memory = stage.objective.init(jax.random.key(1), jnp.zeros((2, 8, 8, 1)))
    batch = stage.prepare(stage.pipeline.batch(0), jax.random.key(2))
    value, (_, _, metrics, _) = stage.objective.loss(
        variables.params,
        variables.stats,
        memory,
        stage.objective.frozen,
        batch,
        jax.random.key(3),
        jnp.float32(0),
    )
    outputs, _ = classifier(made.encoder, 10).apply(
        Variables(variables.params[0], variables.stats[0]), batch.image[0], True
    )
    target, _ = made.encoder.apply(teacher, batch.image[0], False)
    from rmdnet_jax.relations import losses as relation

    edge, node = (
        relation.softmax_kl(outputs.feature, target),
        relation.cosine(outputs.feature, target),
    )
    plain = -np.mean(np.asarray(jax.nn.log_softmax(outputs.logits))[np.arange(64), batch.label])
    np.testing.assert_allclose([metrics["edge"], metrics["node"]], [edge, node], rtol=1e-4)
    np.testing.assert_allclose(value, plain + 2.0 * (edge + node), rtol=1e-4)
    assert (stage.objective.frozen.features is None) == (features == "online")


def test_the_weight_warms_up_linearly():
    encoder = ENCODERS["cnn"](widths=(4,))
    student, image = classifier(encoder, 3), jax.random.normal(jax.random.key(0), (1, 6, 8, 8, 1))
    teacher = Teacher(encoder.init(jax.random.key(1), image[0]))
    objective = relation_guided(
        student,
        METHODS["ce"](6, 3),
        encoder,
        teacher,
        weight=2.0,
        edge=lambda s, t: 1.0,
        node=lambda s, t: 0.0,
        warmup_epochs=4.0,
    )
    variables, memory = objective.init(jax.random.key(2), image[0])
    batch = Batch(image, jnp.zeros(6, jnp.int32), jnp.arange(6))

    def value(epoch):
        return float(
            objective.loss(
                *variables, memory, objective.frozen, batch, jax.random.key(0), jnp.float32(epoch)
            )[0]
        )

    base = value(0.0)
    assert [round(value(e) - base, 5) for e in (1.0, 2.0, 4.0, 9.0)] == [0.5, 1.0, 2.0, 2.0]


def test_no_gradient_reaches_the_teacher():
    encoder = ENCODERS["cnn"](widths=(4,))
    student, image = classifier(encoder, 3), jax.random.normal(jax.random.key(0), (1, 6, 8, 8, 1))
    teacher = Teacher(encoder.init(jax.random.key(1), image[0]))
    from rmdnet_jax.relations import losses as relation

    objective = relation_guided(
        student,
        METHODS["ce"](6, 3),
        encoder,
        teacher,
        weight=2.0,
        edge=relation.softmax_kl,
        node=relation.cosine,
    )
    variables, memory = objective.init(jax.random.key(2), image[0])
    batch = Batch(image, jnp.zeros(6, jnp.int32), jnp.arange(6))

    def value(params):
        frozen = Teacher(Variables(params, teacher.variables.stats))
        return objective.loss(*variables, memory, frozen, batch, jax.random.key(0), jnp.float32(0))[
            0
        ]

    assert all(not np.any(g) for g in jax.tree.leaves(jax.grad(value)(teacher.variables.params)))


def test_students_of_the_control_start_from_the_teacher(tmp_path):
    made = setup(tiny(), tmp_path)
    teacher = made.encoder.init(jax.random.key(5), jnp.zeros((2, 8, 8, 1)))
    state, fresh = (
        begin(experiment.guided_stages(made)("x", teacher, 0.0, init))
        for init in ("teacher", "random")
    )
    assert_same(state.variables.params[0]["encoder"], teacher.params)
    assert_same(state.variables.stats[0]["encoder"], teacher.stats)
    assert_same(state.variables.params[0]["head"], fresh.variables.params[0]["head"])
    pairs = zip(
        jax.tree.leaves(fresh.variables.params[0]["encoder"]), jax.tree.leaves(teacher.params)
    )
    assert any(np.any(np.asarray(a) != np.asarray(b)) for a, b in pairs)


def test_the_average_of_parameters_follows_its_recursion(tmp_path):
    made = setup(tiny(**{"relation_guided.weight": 0.0, "relation_guided.average": 0.9}), tmp_path)
    stage = experiment.guided_stages(made)("x", None, 0.0, "random")
    state = begin(stage)
    slow = jax.device_get(state.variables.params)
    for number in range(3):
        state, _ = training.step(
            stage, state, stage.objective.frozen, stage.pipeline.batch(number), stage.key
        )
        slow = jax.tree.map(
            lambda a, p: 0.9 * a + 0.1 * np.asarray(p), slow, state.variables.params
        )
    for a, b in zip(jax.tree.leaves(slow), jax.tree.leaves(state.average)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert training.final_variables(state).params is state.average


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    made = setup(tiny(**{"relation_guided.weight": 0.0, "checkpoint_steps": 2}), tmp_path)
    stage = experiment.guided_stages(made)("x", None, 0.0, "random")

    def loss(*args):
        value, rest = stage.objective.loss(*args)
        return jnp.where(args[6] * stage.pipeline.steps_per_epoch >= 4.5, jnp.nan, value), rest

    broken = stage._replace(objective=stage.objective._replace(loss=loss))
    with pytest.raises(
        UserError, match=r"the loss is not finite at step 6; last good checkpoint: step 4 in .*x"
    ):
        training.fit(broken, made.mesh, tmp_path / "x", 2, made.writer)
    steps = sorted(int(d.name) for d in (tmp_path / "x").iterdir() if d.name.isdigit())
    assert steps[-1] == 4


def test_a_network_that_is_not_finite_is_not_saved_though_its_loss_is(tmp_path):
    made = setup(tiny(**{"relation_guided.weight": 0.0}), tmp_path)
    stage = experiment.guided_stages(made)("x", None, 0.0, "random")

    def loss(params, *args):
        value, rest = stage.objective.loss(params, *args)
        zero = sum(jnp.sum(p - jax.lax.stop_gradient(p)) for p in jax.tree.leaves(params))
        steep = args[5] * stage.pipeline.steps_per_epoch >= 1.5
        return value + jnp.sqrt(
            jnp.where(steep, zero, 1.0)
        ), rest  # finite, of an infinite slope at 0

    broken = stage._replace(objective=stage.objective._replace(loss=loss))
    with pytest.raises(
        UserError, match=r"parameters are not finite at step 3; last good checkpoint: step 2 in .*x"
    ):
        training.fit(broken, made.mesh, tmp_path / "x", 1, made.writer)


@pytest.mark.parametrize("at", [1, 2])
def test_a_signal_in_an_evaluation_stops_the_run_be_it_the_last(at, tmp_path):
    made = setup(tiny(**{"relation_guided.weight": 0.0}), tmp_path)
    stage = experiment.guided_stages(made)("x", None, 0.0, "random")

    def evaluate(variables, epoch, values):
        if epoch == at:
            signal.raise_signal(signal.SIGTERM)
        return {}

    with pytest.raises(training.Stopped, match=r"x: (stopped at step 4 of 8|finished)"):
        training.fit(stage._replace(evaluate=evaluate), made.mesh, tmp_path / "x", 100, made.writer)
    state = training.fit(stage, made.mesh, tmp_path / "x", 100, made.writer)
    assert int(state.step) == 8


def test_what_does_not_fit_together_is_refused_before_anything_is_written(tmp_path):
    own = {
        "data.name": "npz",
        "data.dir": str(tmp_path / "own.npz"),
        "relation_guided.augmentation": choose(AUGMENTATIONS, "simsiam"),
    }
    np.savez(
        tmp_path / "own.npz", images=np.zeros((256, 8, 8, 4), np.uint8), labels=np.arange(256) % 10
    )
    for fields, message in (
        (
            {"relation_guided.optimizer.fixed": "hed"},
            r"optimizer\.fixed must name one of encoder, head, got 'hed'",
        ),
        (
            {"relation_modeling.optimizer.fixed": "predictr"},
            r"optimizer\.fixed must name one of .*predictor, got 'predictr'",
        ),
        (own, "channels"),
    ):
        with pytest.raises(UserError, match=message):
            experiment.run(tiny(**fields), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_collapsed_teacher_stops_the_run(tmp_path):
    made = setup(tiny(), tmp_path)
    with pytest.raises(
        UserError, match=r"collapsed: z_std \* sqrt\(dim\) is 0\.050 in epoch 1.*learning rate"
    ):
        experiment.watch(made, None, 1, {"z_std": 0.05})


def test_a_teacher_serves_another_run_and_only_of_its_architecture(tmp_path):
    first = experiment.run(tiny(), tmp_path / "first")
    again = experiment.run(tiny(teacher=str(tmp_path / "first")), tmp_path / "again")
    assert records(tmp_path / "first", "relation_guided") == records(
        tmp_path / "again", "relation_guided"
    )
    assert again["relation_modeling"] == {"teacher": str(tmp_path / "first")}
    assert first["relation_modeling"]["knn_accuracy"] > 0.1
    other = tiny(**{"teacher": str(tmp_path / "first"), "encoder.widths": (4, 16)})
    with pytest.raises(UserError, match="another architecture"):
        experiment.run(other, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    unfinished = tiny(teacher=str(tmp_path / "again"))
    with pytest.raises(UserError, match="has not finished relation modeling"):
        experiment.run(unfinished, tmp_path / "third")


def test_noisy_validation_is_held_out_and_chosen_by(tmp_path):
    config = tiny(**{"data.validation": 0.25, "relation_guided.weight": 0.0})
    made = setup(config, tmp_path / "a")
    assert len(made.held) == 64
    assert sorted([*made.held, *made.train]) == list(range(256))
    seen = [
        np.asarray(experiment.guided_stages(made)("x", None, 0.0, "random").pipeline.batch(i).index)
        for i in range(30)
    ]
    assert set(np.concatenate(seen)) == set(made.train)
    summary = experiment.run(config, tmp_path / "b")
    rows = records(tmp_path / "b", "relation_guided")
    best = max(rows, key=lambda r: r["validation_accuracy"])
    assert summary["relation_guided"]["test_accuracy"]["noisy_validation"] == best["test_accuracy"]


def test_an_epoch_visits_each_row_once_in_another_order():
    mesh, rows = (
        sharding.mesh(),
        np.array([5, 1, 9, 12, 3, 7, 20, 31, 2, 4, 6, 8, 10, 11, 13, 14, 15, 16, 17]),
    )
    images = sharding.replicate(mesh, np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1))
    labels = sharding.replicate(mesh, np.arange(40, dtype=np.int32) % 3)
    made = pipeline.resident(images, labels, rows, 8, jax.random.key(0), mesh)
    assert made.steps_per_epoch == 2
    epochs = [
        np.concatenate([np.asarray(made.batch(2 * e + i).index) for i in range(2)])
        for e in range(20)
    ]
    for order in epochs:
        assert len(set(order)) == 16
        assert set(order) <= set(rows)
    assert len({tuple(order) for order in epochs}) == 20
    assert set(np.concatenate(epochs)) == set(rows), "the rows dropped differ from epoch to epoch"
    raw = made.batch(7)
    np.testing.assert_array_equal(np.asarray(raw.image).ravel(), raw.index)
    np.testing.assert_array_equal(raw.label, np.asarray(raw.index) % 3)
    assert len(raw.index.sharding.device_set) == 8


def test_views_depend_on_step_view_and_example_only():
    image = jax.random.randint(jax.random.key(0), (6, 8, 8, 1), 0, 255).astype(jnp.uint8)
    raw = pipeline.Raw(image, jnp.arange(6), jnp.arange(6))
    run = jax.jit(
        pipeline.prepare(
            make("none", num_classes=6, seed=0),
            AUGMENTATIONS["digits"](),
            2,
            np.zeros(1),
            np.ones(1),
        )
    )
    whole, part = (
        run(raw, jax.random.key(1)),
        run(jax.tree.map(lambda x: x[3:5], raw), jax.random.key(1)),
    )
    np.testing.assert_allclose(whole.image[:, 3:5], part.image, atol=1e-6)
    assert np.any(whole.image[0] != whole.image[1])
    assert np.any(np.asarray(run(raw, jax.random.key(2)).image) != np.asarray(whole.image))


def test_channel_statistics_are_numpys():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 5, 3)).astype(np.uint8)
    mean, std = pipeline.channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-5)


def test_prediction_counts_each_example_once_whatever_the_batch():
    mesh = sharding.mesh()
    images = np.random.default_rng(0).integers(0, 256, (37, 4, 4, 1)).astype(np.uint8)
    predict = training.predictor(
        lambda scale, x: x.sum((1, 2, 3)) * scale, mesh, 10, np.array([0.5]), np.array([2.0])
    )
    np.testing.assert_allclose(
        predict(3.0, images), (images / 255 - 0.5).sum((1, 2, 3)) / 2 * 3, rtol=1e-4, atol=1e-4
    )


def test_labels_in_the_step_are_those_that_the_run_reports(tmp_path):
    np.save(tmp_path / "labels.npy", np.arange(1442) % 7)
    own = {
        "file": {"path": str(tmp_path / "labels.npy")},
        "matrix": {"rows": tuple(map(tuple, np.full((10, 10), 0.1).tolist()))},
    }
    for kind in KINDS:
        made = setup(
            tiny(noise=ConfigDict({**choose(KINDS, kind, **own.get(kind, {})), "seed": 0})),
            tmp_path / kind,
        )
        stage = experiment.guided_stages(made)("x", None, 0.0, "random")
        batch = jax.jit(stage.prepare)(stage.pipeline.batch(3), jax.random.key(9))
        np.testing.assert_array_equal(batch.label, made.given[np.asarray(batch.index)])


def test_no_epochs_of_relation_modeling_leave_a_random_teacher(tmp_path):
    summary = experiment.run(tiny(**{"relation_modeling.epochs": 0}), tmp_path)
    assert summary["relation_modeling"]["epochs"] == 0
    assert not records(tmp_path, "relation_modeling")
    assert len(records(tmp_path, "relation_guided")) == 2


def test_data_without_a_test_set_are_trained_on_and_say_so(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (128, 8, 8, 1)).astype(np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(128) % 3)
    config = tiny(
        **{
            "data.name": "npz",
            "data.dir": str(tmp_path / "own.npz"),
            "controls": ("base", "teacher_knn"),
        }
    )
    config.data.validation = 0.25
    summary = experiment.run(config, tmp_path / "run")
    assert summary["relation_guided"]["test_accuracy"] == dict.fromkeys(
        ("last", "last10", "best", "noisy_validation")
    )
    assert "validation_accuracy" in records(tmp_path / "run", "relation_guided")[-1]
    assert set(summary["controls"]) == {"base"}

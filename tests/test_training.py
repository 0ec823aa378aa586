"""The loop: K = 0 is the base method, averages, what stops a run, devices, pipelines."""

import functools
import json
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same, tiny

from rmdnet_jax import sharding
from rmdnet_jax.app import experiment, learning
from rmdnet_jax.app import teacher as teachers
from rmdnet_jax.app.arms import Arm
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.app.setup import make_stage, setup
from rmdnet_jax.app.teacher import Teacher
from rmdnet_jax.data import resident
from rmdnet_jax.data.augment import AUGMENTATIONS
from rmdnet_jax.data.resident import Examples
from rmdnet_jax.errors import UserError
from rmdnet_jax.labels.noise import KINDS
from rmdnet_jax.methods import METHODS
from rmdnet_jax.networks.encoders import ENCODERS
from rmdnet_jax.relations.losses import cosine, softmax_kl
from rmdnet_jax.training import fit as training
from rmdnet_jax.training import predict, steps
from rmdnet_jax.training.objectives import Objective, classifier, relation_guided
from rmdnet_jax.training.predict import predictor
from rmdnet_jax.types import Batch, Outputs, Variables

BASE = Arm("base", stage="x")


def made_of(workdir, **values):
    """What an experiment's arms share."""
    return setup(resolve(tiny(**values)), workdir)


def stage_of(made, arm=BASE, teacher=None):
    return learning.stage(made, learning.learner(made), arm, teacher)


def teacher_of(made, variables):
    """A teacher of these arrays, with its features."""
    return Teacher(made.features(variables, made.source.images), None, variables, {}, {})


def begin(stage):
    return steps.initial(stage, stage.objective.frozen, stage.pipeline.batch(0), stage.key)


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
    values = {"weight": 0.0, "method": name, "epochs": 3}  # the third is after DivideMix's warm-up
    made = made_of(tmp_path, **values)
    chosen = made.config.relation_guided.method.to_dict()
    fields = {key: value for key, value in chosen.items() if key != "name"}
    student, method = classifier(made.encoder, 10), METHODS[name](256, 10, **fields)
    plain = make_stage(made, "plain", 1, base_only(student, method), lambda *_: {})
    ours = stage_of(made)._replace(evaluate=lambda *_: {}, refresh=None)
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
    """Up to the order of additions, which a few steps do not amplify much.

    Noise and order agree exactly. SimCLR's negatives and Barlow Twins' statistics are of the whole
    batch: of a device's part their losses would be others.
    """
    config = tiny(
        ssl=ssl,
        method=method,
        **{
            "relation_guided.optimizer.learning_rate": 0.01,
            "relation_modeling.optimizer.learning_rate": 0.01,
            "relation_modeling.ssl.projection": 16,
            "relation_modeling.ssl.hidden": 8,
        },
    )
    eight = experiment.run(config, tmp_path / "8").summary
    one_device = jax.make_mesh(
        (1,), ("data",), devices=jax.devices()[:1], axis_types=(jax.sharding.AxisType.Auto,)
    )
    monkeypatch.setattr(sharding, "mesh", lambda: one_device)
    one = experiment.run(config, tmp_path / "1").summary
    assert (one["environment"]["devices"], eight["environment"]["devices"]) == (1, 8)
    assert one["noise"] == eight["noise"]
    for stage in ("relation_modeling", "relation_guided"):
        for a, b in zip(
            records(tmp_path / "1", stage), records(tmp_path / "8", stage), strict=True
        ):
            assert a["loss"] == pytest.approx(b["loss"], rel=2e-3)


@pytest.mark.parametrize("features", ["online", "stored"])
def test_the_relation_terms_are_those_of_the_teachers_features(features, tmp_path):
    """Without augmentation both choices see one image, so both equal the terms written out."""
    values = {"relation_guided.teacher_features": features}
    made = made_of(tmp_path, **values, **{"relation_guided.augmentation.name": "none"})
    variables = made.encoder.init(jax.random.key(5), jnp.zeros((2, 8, 8, 1)))
    arm = Arm("rmdnet", weight=2.0, stage="x")
    stage = stage_of(made, arm, teacher_of(made, variables))
    student, memory = stage.objective.init(jax.random.key(1), jnp.zeros((2, 8, 8, 1)))
    batch = stage.prepare(stage.pipeline.batch(0), jax.random.key(2))
    key, frozen = jax.random.key(3), stage.objective.frozen
    value, (_, _, metrics, _) = stage.objective.loss(
        student.params, student.stats, memory, frozen, batch, key, jnp.float32(0)
    )
    first = Variables(student.params[0], student.stats[0])
    outputs, _ = classifier(made.encoder, 10).apply(first, batch.image[0], True)
    target, _ = made.encoder.apply(variables, batch.image[0], False)
    edge, node = softmax_kl(outputs.feature, target), cosine(outputs.feature, target)
    plain = -np.mean(np.asarray(jax.nn.log_softmax(outputs.logits))[np.arange(64), batch.label])
    np.testing.assert_allclose([metrics["edge"], metrics["node"]], [edge, node], rtol=1e-4)
    np.testing.assert_allclose(value, plain + 2.0 * (edge + node), rtol=1e-4)
    assert (frozen[0] is None) == (features == "stored")


def test_the_weight_warms_up_linearly():
    encoder = ENCODERS["cnn"](widths=(4,))
    student, image = classifier(encoder, 3), jax.random.normal(jax.random.key(0), (1, 6, 8, 8, 1))
    teacher = encoder.init(jax.random.key(1), image[0])
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
    teacher = encoder.init(jax.random.key(1), image[0])
    objective = relation_guided(
        student,
        METHODS["ce"](6, 3),
        encoder,
        teacher,
        weight=2.0,
        edge=softmax_kl,
        node=cosine,
    )
    variables, memory = objective.init(jax.random.key(2), image[0])
    batch = Batch(image, jnp.zeros(6, jnp.int32), jnp.arange(6))

    def value(params):
        key, frozen = jax.random.key(0), (Variables(params, teacher.stats), None)
        return objective.loss(*variables, memory, frozen, batch, key, jnp.float32(0))[0]

    assert all(not np.any(g) for g in jax.tree.leaves(jax.grad(value)(teacher.params)))


def test_students_of_the_control_start_from_the_teacher(tmp_path):
    made = made_of(tmp_path)
    teacher = made.encoder.init(jax.random.key(5), jnp.zeros((2, 8, 8, 1)))
    known = teacher_of(made, teacher)
    arms = [Arm("base", init=init, stage="x") for init in ("teacher", "random")]
    state, fresh = (begin(stage_of(made, arm, known)) for arm in arms)
    assert_same(state.variables.params[0]["encoder"], teacher.params)
    assert_same(state.variables.stats[0]["encoder"], teacher.stats)
    assert_same(state.variables.params[0]["head"], fresh.variables.params[0]["head"])
    pairs = zip(
        jax.tree.leaves(fresh.variables.params[0]["encoder"]), jax.tree.leaves(teacher.params)
    )
    assert any(np.any(np.asarray(a) != np.asarray(b)) for a, b in pairs)


@pytest.mark.parametrize("method", METHODS)
def test_one_program_serves_every_seed_noise_and_rate(method, tmp_path):
    """They are arguments of a step: on an accelerator each program takes a minute to compile.

    Of all images: a sample's channel statistics, which are constants, differ with the seed.
    """

    def program(place, **values):
        values |= {"method": method, "weight": 0.0, "limit": 0, "epochs": 3}
        stage = stage_of(made_of(tmp_path / place, **values))
        rows, frozen = stage.pipeline.batch(0), stage.objective.frozen
        state = jax.eval_shape(functools.partial(steps.initial, stage), frozen, rows, stage.key)
        step = jax.jit(functools.partial(steps.step, stage))
        return step.lower(state, frozen, rows, stage.key).as_text()

    one = program("one", seed=0, noise="symmetric", rate=0.2)
    two = program("two", seed=1, noise="pair", rate=0.4)
    assert one == two


def test_the_average_of_parameters_follows_its_recursion(tmp_path):
    made = made_of(tmp_path, **{"relation_guided.weight": 0.0, "relation_guided.average": 0.9})
    stage = stage_of(made)
    state = begin(stage)
    slow = jax.device_get(state.variables.params)
    for number in range(3):
        state, _ = steps.step(
            stage, state, stage.objective.frozen, stage.pipeline.batch(number), stage.key
        )
        keep = min(0.9, (1 + number) / (10 + number))  # random first weights are soon forgotten
        slow = jax.tree.map(
            lambda a, p, keep=keep: keep * a + (1 - keep) * np.asarray(p),
            slow,
            state.variables.params,
        )
    for a, b in zip(jax.tree.leaves(slow), jax.tree.leaves(state.average)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert steps.final_variables(state).params is state.average


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    made = made_of(tmp_path, **{"relation_guided.weight": 0.0, "checkpoint_steps": 2})
    stage = stage_of(made)

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
    made = made_of(tmp_path, **{"relation_guided.weight": 0.0})
    stage = stage_of(made)

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
    made = made_of(tmp_path, **{"relation_guided.weight": 0.0})
    stage = stage_of(made)

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
        "relation_guided.augmentation.name": "simsiam",
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
            r"optimizer\.fixed must name one of .*predictor.*, got 'predictr'",
        ),
        (own, "channels"),
    ):
        with pytest.raises(UserError, match=message):
            experiment.run(tiny(**fields), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_collapsed_teacher_stops_the_run(tmp_path):
    made = made_of(tmp_path)
    with pytest.raises(
        UserError, match=r"collapsed: z_std \* sqrt\(dim\) is 0\.050 in epoch 1.*learning rate"
    ):
        teachers.watch(made, None, 1, {"z_std": 0.05})


def test_a_teacher_serves_another_run_and_starts_those_of_its_architecture(tmp_path):
    first = experiment.run(tiny(), tmp_path / "first").summary
    again = experiment.run(tiny(teacher=str(tmp_path / "first")), tmp_path / "again").summary
    assert records(tmp_path / "first", "relation_guided") == records(
        tmp_path / "again", "relation_guided"
    )
    assert again["relation_modeling"] == {"teacher": str(tmp_path / "first")}
    assert first["relation_modeling"]["knn_accuracy"] > 0.1
    wide = {"teacher": str(tmp_path / "first"), "encoder.widths": (4, 16)}
    other = tiny(**wide, **{"relation_guided.init": "teacher"})
    with pytest.raises(UserError, match="another architecture"):
        experiment.run(other, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    unfinished = tiny(teacher=str(tmp_path / "again"))
    with pytest.raises(UserError, match="has not finished relation modeling"):
        experiment.run(unfinished, tmp_path / "third")


def test_noisy_validation_is_held_out_and_chosen_by(tmp_path):
    values = {"validation": 0.25, "weight": 0.0}
    made = made_of(tmp_path / "a", **values)
    assert len(made.held) == 64
    assert sorted([*made.held, *made.train]) == list(range(256))
    seen = [np.asarray(stage_of(made).pipeline.batch(i).index) for i in range(30)]
    assert set(np.concatenate(seen)) == set(made.train)
    summary = experiment.run(tiny(**values), tmp_path / "b").summary
    rows = records(tmp_path / "b", "relation_guided")
    best = max(rows, key=lambda r: r["validation_accuracy"])
    assert summary["relation_guided"]["test_accuracy"]["noisy_validation"] == best["test_accuracy"]


def test_an_epoch_visits_each_row_once_in_another_order():
    mesh, rows = (
        sharding.mesh(),
        np.array([5, 1, 9, 12, 3, 7, 20, 31, 2, 4, 6, 8, 10, 11, 13, 14, 15, 16, 17]),
    )
    index = np.arange(40, dtype=np.int32)
    image, clean, targets = (
        index.astype(np.uint8).reshape(40, 1, 1, 1),
        index % 5,
        np.eye(40)[index],
    )
    columns = sharding.replicate(
        mesh, Examples(resident.flat(image), index % 3, index, clean, targets)
    )
    made = resident.resident(columns, rows, 8, jax.random.key(0), mesh)
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
    found = made.batch(7)
    order = np.asarray(found.index)
    np.testing.assert_array_equal(np.asarray(found.image).ravel(), order)
    np.testing.assert_array_equal(found.given, order % 3)
    np.testing.assert_array_equal(found.clean, order % 5)
    np.testing.assert_array_equal(np.argmax(found.targets, axis=1), order)
    assert found.teacher is None
    assert len(found.index.sharding.device_set) == 8


@pytest.mark.parametrize(
    ("size", "said"), [(1, "in [2, 19]"), (20, "in [2, 19]"), (9, "8 devices")]
)
def test_a_batch_size_that_cannot_be_is_refused(size, said):
    index = np.arange(19, dtype=np.int32)
    columns = Examples(resident.flat(np.zeros((19, 1, 1, 1), np.uint8)), index, index)
    with pytest.raises(UserError, match="batch_size must be .*" + re.escape(said)):
        resident.resident(columns, index, size, jax.random.key(0), sharding.mesh())


@pytest.mark.parametrize("targets", [False, True])
def test_targets_are_learnt_in_the_labels_place(targets):
    """What a step learns are the rows of the corrected targets, where there are any."""
    index = jnp.arange(6)
    table = jax.nn.softmax(jax.random.normal(jax.random.key(0), (6, 4))) if targets else None
    rows = Examples(jnp.zeros((6, 8, 8, 1), jnp.uint8), index % 4, index, targets=table)
    run = resident.prepare([AUGMENTATIONS["none"]()], np.zeros(1), np.ones(1))
    batch = run(rows, jax.random.key(0))
    np.testing.assert_array_equal(batch.label, table if targets else rows.given)


def test_views_depend_on_step_view_and_example_only():
    image = jax.random.randint(jax.random.key(0), (6, 8, 8, 1), 0, 255).astype(jnp.uint8)
    rows = Examples(image, jnp.arange(6), jnp.arange(6))
    run = jax.jit(resident.prepare([AUGMENTATIONS["digits"]()] * 2, np.zeros(1), np.ones(1)))
    some = jax.tree.map(lambda x: x[3:5], rows)
    whole, part = run(rows, jax.random.key(1)), run(some, jax.random.key(1))
    np.testing.assert_allclose(whole.image[:, 3:5], part.image, atol=1e-6)
    assert np.any(whole.image[0] != whole.image[1])
    assert np.any(np.asarray(run(rows, jax.random.key(2)).image) != np.asarray(whole.image))


def test_channel_statistics_are_numpys():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 5, 3)).astype(np.uint8)
    mean, std = resident.channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-5)


def test_prediction_counts_each_example_once_whatever_the_batch():
    mesh = sharding.mesh()
    images = np.random.default_rng(0).integers(0, 256, (37, 4, 4, 1)).astype(np.uint8)
    predict = predictor(
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
        fields = {f"noise.{name}": value for name, value in own.get(kind, {}).items()}
        made = made_of(tmp_path / kind, noise=kind, **fields)
        stage = stage_of(made)
        batch = jax.jit(stage.prepare)(stage.pipeline.batch(3), jax.random.key(9))
        np.testing.assert_array_equal(batch.label, made.given[np.asarray(batch.index)])


def test_no_epochs_of_relation_modeling_leave_a_random_teacher(tmp_path):
    summary = experiment.run(tiny(modeling=0), tmp_path).summary
    assert summary["relation_modeling"]["epochs"] == 0
    assert not records(tmp_path, "relation_modeling")
    assert len(records(tmp_path, "relation_guided")) == 2


def test_data_without_a_test_set_are_trained_on_and_say_so(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (128, 8, 8, 1)).astype(np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(128) % 3)
    controls = ("base", "teacher_knn")
    config = tiny(data=str(tmp_path / "own.npz"), validation=0.25, controls=controls)
    summary = experiment.run(config, tmp_path / "run").summary
    assert summary["relation_guided"]["test_accuracy"] == dict.fromkeys(
        ("last", "last10", "best", "noisy_validation")
    )
    assert "validation_accuracy" in records(tmp_path / "run", "relation_guided")[-1]
    assert summary["controls"]["teacher_knn"]["test_accuracy"] == {"last": None}


@pytest.mark.parametrize("room", [1, 3])
def test_images_on_the_devices_are_predicted_as_those_of_the_host(room, monkeypatch):
    """As on an accelerator: several batches a call, of which the last does not fill its room."""
    monkeypatch.setattr(predict, "ROOM", room)
    backend = jax.default_backend
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu" if room > 1 else backend())
    mesh = sharding.mesh()
    images = np.random.default_rng(0).integers(0, 256, (61, 4, 5, 3)).astype(np.uint8)
    rows = np.array([3, 60, 2, 2, 17, 41, 9, 8, 7], np.int32)
    say = predict.predictor(lambda v, x: x.sum((1, 2)) * v, mesh, 8, np.zeros(3), np.ones(3))
    there = sharding.replicate(mesh, resident.flat(images))
    slow = 2.0 * (images / 255).sum((1, 2))
    for found in (say(2.0, images), say(2.0, there)):
        np.testing.assert_allclose(found, slow, rtol=1e-5)
    for found in (say(2.0, images, rows), say(2.0, there, rows)):
        np.testing.assert_allclose(found, slow[rows], rtol=1e-5)


def test_a_teachers_features_are_over_crops_where_asked(tmp_path):
    one = experiment.run(tiny(epochs=0), tmp_path / "one").summary["relation_modeling"]
    config = tiny(epochs=0, teacher_crops=4)
    many = experiment.run(config, tmp_path / "many").summary["relation_modeling"]
    assert one["loss"] == many["loss"]  # training is the same
    config = tiny(teacher=str(tmp_path / "many"), teacher_crops=4)
    made = setup(resolve(config), tmp_path / "again")
    teacher = teachers.prepared(made)
    scale = made.config.relation_modeling.augmentation.min_scale, 1.0
    features = predict.features_of(
        made.encoder, made.mesh, 64, *made.statistics, crops=4, scale=scale
    )
    expected = features(teacher.variables, made.source.images)
    np.testing.assert_allclose(teacher.features, expected, atol=1e-5)
    assert np.linalg.norm(teacher.features, axis=1).max() < 1  # a mean of unit rows

"""One experiment: trains the teacher, the student and the controls that a config asks for, and writes what came out."""

from __future__ import annotations

import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rmdnet_jax import evaluation, files, sharding
from rmdnet_jax.app import report
from rmdnet_jax.app import workdir as directory
from rmdnet_jax.app.config import bind, build
from rmdnet_jax.app.setup import Run, make_stage, setup, train
from rmdnet_jax.app.targets import corrected, propagator, renewed
from rmdnet_jax.errors import UserError
from rmdnet_jax.labels import noise
from rmdnet_jax.methods import METHODS, mixup, on_targets
from rmdnet_jax.networks import weights
from rmdnet_jax.relations.losses import EDGES, NODES
from rmdnet_jax.ssl import SSL
from rmdnet_jax.training import checkpoint
from rmdnet_jax.training import fit as training
from rmdnet_jax.training.objectives import Teacher, classifier, relation_guided, relation_modeling
from rmdnet_jax.types import Config, Outputs, Variables

COLLAPSED = 0.1  # below this z_std * sqrt(dim), all projections have become one point


def run(config: Config, workdir: str | pathlib.Path) -> dict:
    """Runs an experiment to its end, continuing what `workdir` holds, and returns the content of its `summary.json`.

    Raises:
      UserError: the config, the data or the working directory do not allow the run, or it cannot go on.
      training.Stopped: after SIGTERM or SIGINT, with everything saved.
    """
    began = time.perf_counter()
    made = setup(config, pathlib.Path(workdir))
    guided = config.relation_guided
    propagate = propagator(made) if guided.targets == "propagated" else None
    needed = (
        propagate
        or guided.weight > 0
        or guided.init == "teacher"
        or set(config.controls) - {"base"}
    )
    stage = guided_stages(made)
    stage(
        "relation_guided", None, 0.0, "random"
    )  # everything is built, and so checked, before anything is written
    source = teacher_source(made) if needed else lambda: (None, {})
    labels = noise.describe(
        made.source.labels, made.given, len(made.source.names), made.noise.known
    )
    data = {"labels": labels["sha256"], "channels": [values.tolist() for values in made.statistics]}
    directory.check(made.workdir, data, "data")
    directory.create(made.workdir, config=json.loads(config.to_json()), data=data)
    say(report.describe(config, made.source, labels))
    teacher, modeling = source()
    soften, learnt, about = (
        softener(made, teacher, propagate) if propagate and teacher else (None, made.given, {})
    )
    student, result = guide(
        made, stage("relation_guided", teacher, guided.weight, guided.init, soften), learnt
    )
    students = {"relation_guided": (student, result | about)}
    for name, init in (("base", "random"), ("base_from_teacher", "teacher")):
        if name in config.controls:
            students[name] = guide(made, stage(f"controls/{name}", teacher, 0.0, init), made.given)
    results = {name: result for name, (_, result) in students.items()}
    summary = {
        "relation_modeling": modeling,
        "relation_guided": results.pop("relation_guided"),
        "controls": results | frozen_controls(made, teacher),
        "noise": {**config.noise.to_dict(), **labels},
        "environment": report.environment(made.mesh),
        "session_seconds": round(
            time.perf_counter() - began, 3
        ),  # of this process; the stages' seconds count all
    }
    draw(made, teacher, {name: variables for name, (variables, _) in students.items()})
    if sharding.is_main():
        export(made, students["relation_guided"][0])
    files.write_json(
        made.workdir / "summary.json", summary
    )  # last: it says that the run is finished
    say(report.table(summary, config))
    return summary


def say(text: str) -> None:
    """Prints from the main process only."""
    if sharding.is_main():
        print(text, flush=True)


def teacher_source(made: Run) -> Callable:
    """`() -> (the teacher's encoder, stage 1's part of the summary)`: loaded from `config.teacher` already, or to be trained."""
    if made.config.teacher:
        loaded = load_teacher(made)
        return lambda: (loaded, {"teacher": made.config.teacher})
    ssl = build(
        SSL,
        "relation_modeling.ssl",
        made.config.relation_modeling.ssl,
        made.encoder,
        made.config.encoder.dtype,
    )
    objective = relation_modeling(ssl, made.config.relation_modeling.epochs)
    stage = make_stage(made, "relation_modeling", 0, objective, functools.partial(watch, made))
    return functools.partial(train_teacher, made, stage)


def train_teacher(made: Run, stage: training.Stage) -> tuple[Variables, dict]:
    """Relation modeling; the teacher is kept apart from the stage's checkpoints, for other runs to load."""
    teacher = encoder_of(train(made, stage))
    with checkpoint.opened(made.workdir / "teacher", 1) as manager:
        if manager.latest_step() is None:
            checkpoint.save(manager, stage.epochs * stage.pipeline.steps_per_epoch, teacher)
    last = (made.writer.metrics.of(stage.name) or [{}])[-1]
    kept = {name: last[name] for name in ("loss", "z_std", "knn_accuracy") if name in last}
    return teacher, {"epochs": stage.epochs, **kept, **made.writer.speed(stage.name)}


def encoder_of(variables: Variables) -> Variables:
    """The encoder within a stage's network."""
    return Variables(variables.params["encoder"], variables.stats["encoder"])


def load_teacher(made: Run) -> Variables:
    """The teacher that an earlier run left, or that a file of weights holds; raises `UserError` unless it fits this run's encoder."""
    path = pathlib.Path(made.config.teacher)
    image = jax.ShapeDtypeStruct((2, *made.source.images.shape[1:]), np.float32)
    shapes = jax.eval_shape(made.encoder.init, jax.random.key(0), image)
    if path.suffix in weights.SUFFIXES:
        return sharding.replicate(
            made.mesh,
            weights.from_state_dict(
                weights.read(path, "teacher"), shapes, f"teacher {str(path)!r}"
            ),
        )
    try:
        there = {
            **json.loads((path / "config.json").read_text())["encoder"],
            "dtype": made.config.encoder.dtype,
        }
    except (OSError, ValueError, KeyError):
        kinds = ", ".join(weights.SUFFIXES)
        raise UserError(
            f"teacher must be the workdir of an earlier run, or a file of weights ({kinds}): no config.json can be read in {str(path)!r}"
        ) from None
    here = json.loads(made.config.encoder.to_json())  # dtype is only what a network computes in
    if there != here:
        raise UserError(
            f"teacher {str(path)!r} has another architecture: encoder {there} there, {here} here"
        )
    if not (path / "teacher").is_dir():
        raise UserError(
            f"teacher {str(path)!r} has not finished relation modeling: there is no teacher/ in it"
        )
    place = sharding.everywhere(made.mesh)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)
    with checkpoint.opened(path / "teacher", 1) as manager:
        found = checkpoint.restore(manager, like)
    if found is None:
        raise UserError(
            f"teacher {str(path)!r} cannot be read as {made.config.encoder.name} for images of shape {image.shape[1:]}"
        )
    return found[1]


def watch(made: Run, variables: Variables, epoch: int, values: dict) -> dict:
    """Stage 1's evaluation: stops a collapsed run; kNN accuracy with clean labels, an evaluation only."""
    config = made.config.relation_modeling
    if values["z_std"] < COLLAPSED:
        raise UserError(
            f"relation_modeling collapsed: z_std * sqrt(dim) is {values['z_std']:.3f} in epoch {epoch}, below {COLLAPSED}. Likely causes: "
            "a learning rate too high, augmentation too weak, batches too small for batch norm"
        )
    if epoch % config.evaluate_every and epoch != config.epochs:
        return {}
    return frozen_accuracies(
        made, encoder_of(variables), made.source.labels, {"knn_accuracy": nearest(made)}
    )


def nearest(made: Run) -> Callable:
    """The configured kNN classifier: (bank, labels, query) -> predicted."""
    settings = made.config.relation_modeling.knn
    return functools.partial(
        evaluation.knn,
        num_classes=len(made.source.names),
        k=settings.k,
        temperature=settings.temperature,
    )


def frozen_accuracies(
    made: Run, encoder: Any, labels: np.ndarray, kinds: dict[str, Callable]
) -> dict[str, float]:
    """Test accuracy of each of these classifiers on frozen features of the training examples with these labels; none without a test set."""
    if not kinds or not len(made.source.test_labels):
        return {}
    bank, query = (
        made.features(encoder, made.source.images[made.train]),
        made.features(encoder, made.source.test_images),
    )
    found = {name: classify(bank, labels[made.train], query) for name, classify in kinds.items()}
    return {
        name: evaluation.accuracy(predicted, made.source.test_labels)
        for name, predicted in found.items()
    }


def frozen_controls(made: Run, teacher: Any) -> dict:
    """What the teacher's features alone give with the noisy labels."""
    kinds = {"teacher_knn": nearest(made), "teacher_probe": evaluation.linear_probe}
    chosen = {name: classify for name, classify in kinds.items() if name in made.config.controls}
    return {
        name: {"test_accuracy": {"last": value}}
        for name, value in frozen_accuracies(made, teacher, made.given, chosen).items()
    }


def guided_stages(made: Run) -> Callable:
    """`stage(name, teacher, weight, init, soften)`: relation-guided learning as configured but for K, first weights and what it learns."""
    config, num_classes = made.config.relation_guided, len(made.source.names)
    method = build(
        METHODS, "relation_guided.method", config.method, len(made.source.labels), num_classes
    )
    method = mixup(method, config.mixup, num_classes)
    edge, node = (
        matching(config[name], table, f"relation_guided.{name}")
        for name, table in (("edge", EDGES), ("node", NODES))
    )
    student = classifier(made.encoder, num_classes)

    def stage(
        name: str,
        teacher: Variables | None,
        weight: float,
        init: str,
        soften: Callable | None = None,
    ) -> training.Stage:
        stored = weight and config.teacher_features == "stored"
        features = (
            sharding.replicate(made.mesh, made.features(teacher, made.source.images))
            if stored
            else None
        )
        learner = soften(method) if soften else method
        objective = relation_guided(
            student, learner, made.encoder, teacher and Teacher(teacher, features),
            weight=weight, edge=edge, node=node, warmup_epochs=config.warmup_epochs, from_teacher=init == "teacher",
        )  # fmt: skip
        refresh = functools.partial(remember, made, learner.refresh) if learner.refresh else None
        return make_stage(made, name, 1, objective, functools.partial(test, made), refresh)

    return stage


def softener(
    made: Run, teacher: Variables, propagate: Callable
) -> tuple[Callable, np.ndarray, dict]:
    """What puts a method on targets corrected over the teacher's graph, the likeliest labels by them, and its part of the summary."""
    target, about = corrected(made, teacher, propagate)
    say(report.propagated(about))
    renew = functools.partial(renewed, made, propagate)
    soften = functools.partial(
        on_targets,
        target=target,
        renew=renew,
        every=made.config.relation_guided.propagation.refresh,
    )
    return soften, target.argmax(1), {"propagation": about}


def remember(made: Run, refresh: Callable, variables: Variables, memory: Any, epoch: int) -> Any:
    """A method's memory after an epoch, from what each peer says of the examples trained on."""

    @functools.cache
    def outputs() -> Outputs:
        peers = [Variables((params,), (stats,)) for params, stats in zip(*variables)]
        return jax.tree.map(
            lambda *x: np.stack(x),
            *(made.predict(peer, made.source.images[made.train]) for peer in peers),
        )

    return refresh(outputs, made.given[made.train], made.train, memory, epoch)


def matching(config: Config, table: dict, field: str) -> Callable:
    """An edge or node loss with its weight, tried on two examples so that bad values are refused at once."""
    weight = config.weight
    loss = bind(table, field, config, beside=("weight",))
    example = jax.ShapeDtypeStruct((2, 2), np.float32)
    jax.eval_shape(loss, example, example)
    return lambda student, teacher: weight * loss(student, teacher) if weight else 0.0


def test(made: Run, variables: Variables, epoch: int, values: dict) -> dict:
    """Stage 2's evaluation: accuracy on the clean test set, and on held-out noisy labels."""
    splits = {"test_accuracy": (made.source.test_images, made.source.test_labels)}
    splits["validation_accuracy"] = made.source.images[made.held], made.given[made.held]
    return {
        name: evaluation.accuracy(made.predict(variables, images).logits.argmax(-1), labels)
        for name, (images, labels) in splits.items()
        if len(labels)
    }


def guide(made: Run, stage: training.Stage, learnt: np.ndarray) -> tuple[Variables, dict]:
    """Trains one student, on the labels `learnt` [example]; returns it with its part of the summary."""
    variables = train(made, stage)
    records = made.writer.metrics.of(stage.name)
    result: dict[str, Any] = {"test_accuracy": evaluation.columns(records)}
    if len(made.source.test_labels):
        logits = made.predict(variables, made.source.test_images).logits
        result["nll"] = evaluation.negative_log_likelihood(logits, made.source.test_labels)
        result["ece"] = evaluation.expected_calibration_error(logits, made.source.test_labels)
    if "noise_rate" in records[-1]:  # what a method that selects examples took it to be
        used, true = (
            records[-1]["noise_rate"],
            float(np.mean((learnt != made.source.labels)[made.train])),
        )
        source = (
            "estimate" if made.config.relation_guided.method.get("rate") == "estimate" else "given"
        )
        result["noise_rate"] = {
            "used": used,
            "source": source,
            "error": used - true if made.noise.known else None,
        }
    result["train_accuracy"] = {
        kind: records[-1][f"train_accuracy_{kind}"] for kind in ("given", "clean")
    }
    return variables, {**result, "epochs": stage.epochs, **made.writer.speed(stage.name)}


def export(made: Run, student: Variables) -> None:
    """The student under torchvision's names, with what else it takes to use it, as `student.safetensors`; of peers the first."""
    state = weights.state_dict(Variables(student.params[0], student.stats[0]))
    mean, std = (values.tolist() for values in made.statistics)  # of pixels in [0, 1], by channel
    about = {
        "encoder": made.config.encoder.to_dict(),
        "mean": mean,
        "std": std,
        "classes": list(made.source.names),
    }
    weights.write(
        made.workdir / "student.safetensors",
        {name.removeprefix("encoder."): array for name, array in state.items()},
        about,
    )


def draw(made: Run, teacher: Variables | None, students: dict[str, Variables]) -> None:
    """The figures: accuracies over epochs, and the relations of one batch sorted by class. Every process predicts, the main one draws."""
    images, labels = made.source.images[made.train[:200]], made.source.labels[made.train[:200]]
    order = np.argsort(labels, kind="stable")
    features = {} if teacher is None else {"teacher": made.features(teacher, images[order])}
    features |= {
        name: made.predict(variables, images[order]).feature for name, variables in students.items()
    }
    if sharding.is_main():
        figures, edge = made.workdir / "figures", made.config.relation_guided.edge
        report.curves(made.writer.metrics.all, figures / "accuracy.png")
        report.relations(
            features, labels[order], edge.get("student_temperature", 0.1), figures / "relations.png"
        )

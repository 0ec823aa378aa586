"""What is timed of rmdnet_jax: stages that `experiment` builds, the loop that `fit` runs."""

from __future__ import annotations

import functools
import pathlib
import tempfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rmdnet_jax import cpu, sharding
from rmdnet_jax.app import learning, measure, report
from rmdnet_jax.app.arms import own
from rmdnet_jax.app.overrides import override
from rmdnet_jax.app.presets import cifar
from rmdnet_jax.app.resolve import build, resolve
from rmdnet_jax.app.setup import Run, keep_programs, make_stage, setup
from rmdnet_jax.app.teacher import Teacher
from rmdnet_jax.relations import losses as relation
from rmdnet_jax.training import fit as training
from rmdnet_jax.training import steps
from rmdnet_jax.training.objectives import relation_modeling


def start() -> None:
    """As the command starts."""
    cpu.keep_memory()
    keep_programs()


def configured(data: str, network: str, case: str, batch: int, epochs: int, **more):
    """The CIFAR-10 experiment with this network, on the images of an .npz file, resolved."""
    values = {
        "data.name": "npz",
        "data.dir": data,
        "encoder": network,
        "encoder.dtype": dtype(),
        "noise": "symmetric",
        "rate": 0.5,
        "weight": 0.0 if case == "ce" else 1.0,
        "relation_guided.teacher_features": "stored" if case == "stored" else "online",
        "checkpoint_steps": 10**9,
        "ssl": "simclr" if case == "simclr" else "simsiam",
    }
    for stage in ("relation_modeling", "relation_guided"):
        values |= {f"{stage}.batch_size": batch, f"{stage}.epochs": epochs}
    return resolve(override(cifar("cifar10"), values | more))


def dtype() -> str:
    """bfloat16 where it is fast."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def stage_of(made: Run, case: str) -> steps.Stage:
    """The stage that a case trains."""
    if case in ("simsiam", "simclr"):
        ssl = build("relation_modeling.ssl", made.config, made.encoder, dtype())
        return make_stage(made, "relation_modeling", 0, relation_modeling(ssl, 1), lambda *_: {})
    variables = made.encoder.init(jax.random.key(1), jnp.zeros((2, *made.source.images.shape[1:])))
    stored = case == "stored"
    features = made.features(variables, made.source.images) if stored else np.zeros((0, 0))
    teacher = Teacher(features, None, variables, {}, {})
    return learning.stage(made, learning.learner(made), own(made.config), teacher)


def run(case: str, data: str, network: str, batch: int, epochs: int, turn: Callable) -> dict:
    """Runs a case, `turn()` after the first step or pass and after each; returns what it knows."""
    with tempfile.TemporaryDirectory() as workdir:
        made = setup(configured(data, network, case, batch, epochs), pathlib.Path(workdir))
        stage = stage_of(made, "online" if case in ("evaluation", "epoch") else case)
        raw = stage.pipeline.batch(0)
        state = jax.jit(functools.partial(steps.initial, stage))(
            stage.objective.frozen, raw, stage.key
        )
        if case == "evaluation":
            while turn():
                made.predict(state.variables, made.source.test_images)
            return {}
        if case == "epoch":
            return epoch(made, stage, turn)
        step = jax.jit(functools.partial(steps.step, stage), donate_argnums=0)
        lowered = step.lower(state, stage.objective.frozen, raw, stage.key)
        flops = (lowered.cost_analysis() or {}).get("flops", 0.0)
        while turn():
            state, loss = step(state, stage.objective.frozen, raw, stage.key)
            loss.block_until_ready()
        return {"flops": flops}


class Enough(Exception):
    """Raised within a loop that has been timed."""


def epoch(made: Run, stage: steps.Stage, turn: Callable) -> dict:
    """Whole epochs by `training.fit`: data, steps, metrics, evaluation, records; no checkpoints."""

    def evaluate(*args):
        values = measure.test(made, *args)
        if not turn():
            raise Enough
        return values

    turn()
    try:
        training.fit(
            stage._replace(evaluate=evaluate),
            made.mesh,
            made.workdir / "checkpoints",
            10**9,
            made.writer,
        )
    except Enough:
        return {}
    raise AssertionError("more epochs were asked for than the stage has")


def related(form: str, batch: int, dim: int, turn: Callable) -> dict:
    """The edge loss and its gradient, `plain` or in `blocks` of rows."""
    student, teacher = jax.random.normal(jax.random.key(0), (2, batch, dim))
    loss = functools.partial(relation.softmax_kl, block=256 if form == "blocks" else 0)
    run = jax.jit(jax.value_and_grad(loss)).lower(student, teacher).compile()
    while turn():
        jax.block_until_ready(run(student, teacher))
    memory = run.memory_analysis()
    return {} if memory is None else {"temporary_bytes": memory.temp_size_in_bytes}


def ceiling(turn: Callable) -> dict:
    """A matrix product, large enough for the machine's highest rate."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    matrix = jax.random.normal(jax.random.key(0), (size, size), dtype())
    product = jax.jit(jnp.matmul)
    while turn():
        product(matrix, matrix).block_until_ready()
    return {"flops": 2 * size**3, **report.environment(sharding.mesh())}


def peak_memory() -> float | None:
    """The device's peak use in bytes, where it is known."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")

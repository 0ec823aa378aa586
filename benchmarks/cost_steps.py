"""One method's steps, alone and with RMDNet: compiled for this machine or another, and timed."""

from __future__ import annotations

import concurrent.futures
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import ours
from benchmarks.speed import spread
from rmdnet_jax import sharding
from rmdnet_jax.app import learning
from rmdnet_jax.app.arms import own
from rmdnet_jax.app.compile.facts import kernels
from rmdnet_jax.app.correct import Corrected
from rmdnet_jax.app.overrides import override
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.app.setup import setup
from rmdnet_jax.app.teacher import Teacher
from rmdnet_jax.training import steps
from rmdnet_jax.types import AXIS

VARIANTS: dict[str, dict[str, Any]] = {
    "alone": {"weight": 0.0},
    "online": {"relation_guided.teacher_features": "online"},
    "stored": {"relation_guided.teacher_features": "stored"},
    "corrected": {"weight": 0.0, "targets": "propagated"},
}
EPOCHS = 100  # of the configs whose steps are taken
WARM, LEAST = 1, 0.2  # turns before those that count; seconds of a turn: short steps are repeated


def stage_of(data: str, network: str, method: str, variant: str, batch: int, real: bool):
    """The stage of one program; a teacher's arrays are random, or shapes alone."""
    known = ours.configured(data, network, "online", batch, EPOCHS)
    config = resolve(override(known, {"method": method, **VARIANTS[variant]}))
    made = setup(config, pathlib.Path(data).with_suffix(".none"))
    image = jnp.zeros((2, *made.source.images.shape[1:]))
    init = functools.partial(made.encoder.init, jax.random.key(1))
    variables = jax.jit(init)(image) if real else jax.eval_shape(init, image)
    apply = lambda x: made.encoder.apply(x, image, False)[0]  # noqa: E731
    size, random = len(made.given), np.random.default_rng(1)
    dim = jax.eval_shape(apply, variables).shape[-1]
    teacher = Teacher(random.normal(size=(size, dim)).astype(np.float32), None, variables, {}, {})
    targets = random.dirichlet(np.ones(made.classes), size).astype(np.float32)
    parts, labels = learning.learner(made), Corrected(targets, {}, np.eye(targets.shape[1]))
    return learning.stage(made, parts, own(config), teacher, labels), made.mesh


def lowered(stage: steps.Stage, here: Mesh, there: Mesh | None, shapes: bool) -> Any:
    """The step as a program that is not yet compiled, for the devices there, or those here."""
    mesh, rows, frozen, key = (
        there or here,
        stage.pipeline.batch(0),
        stage.objective.frozen,
        stage.key,
    )
    state = steps.shapes(stage, mesh, rows)
    if shapes:
        rows = _placed(NamedSharding(mesh, PartitionSpec(AXIS)), rows)
        frozen, key = _placed(sharding.everywhere(mesh), (frozen, key))
    with jax.set_mesh(mesh):
        step = jax.jit(functools.partial(steps.step, stage), donate_argnums=0)
        return step.lower(state, frozen, rows, key)


def _placed(where: NamedSharding, tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)


def compiled(programs: dict[str, Any]) -> dict[str, Any]:
    """All of them compiled, side by side."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(zip(programs, pool.map(lambda program: program.compile(), programs.values())))


def facts(program: Any, flops: float | None = None) -> dict[str, float]:
    """What the compiler says of a program: bytes of memory, operations, bytes read and written.

    A compiler without its card gives no analysis: `flops` are counted before it, and bytes are
    those that its kernels read and write.
    """
    memory, cost = program.memory_analysis(), program.cost_analysis() or {}
    moved = kernels(program.as_text())
    return {
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "flops": cost["flops"] if flops is None else flops,
        "bytes": cost.get("bytes accessed", sum(moved)),
        "kernels": len(moved),
    }


def runner(stage: steps.Stage, mesh: Mesh, program: Any) -> Callable[[], None]:
    """Takes one step, and waits for it."""
    rows, frozen, key = stage.pipeline.batch(0), stage.objective.frozen, stage.key
    with jax.set_mesh(mesh):
        init = functools.partial(steps.initial, stage)
        state = jax.jit(init, out_shardings=sharding.everywhere(mesh))(frozen, rows, key)

    def run():
        nonlocal state
        state, loss = program(state, frozen, rows, key)
        loss.block_until_ready()

    return run


def in_turns(
    runs: dict[str, Callable[[], None]], turns: int, seconds: float
) -> dict[str, list[float]]:
    """Milliseconds of each run, by turns; no new round of turns after so many seconds.

    Each turn begins with another run, so that none always comes first. A round is as many turns.
    """
    names, took = [*runs], {name: [] for name in runs}
    began = time.perf_counter()
    for turn in range(-WARM, turns):
        if turn > 0 and turn % len(names) == 0 and time.perf_counter() - began > seconds:
            break
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start, count, spent = time.perf_counter(), 0, 0.0
            while spent < LEAST:
                runs[name]()
                count, spent = count + 1, time.perf_counter() - start
            if turn >= 0:
                took[name].append(1e3 * spent / count)
    return took


def rows_of(
    data: str, network: str, method: str, batch: int, mesh: Mesh | None, limits: tuple | None
) -> list[dict[str, Any]]:
    """A method's rows; without `limits`, (turns, seconds), nothing is run."""
    stages = {
        name: stage_of(data, network, method, name, batch, limits is not None) for name in VARIANTS
    }
    made = {name: lowered(*stages[name], mesh, limits is None) for name in VARIANTS}
    programs = compiled(made)
    # before it is compiled for elsewhere, the same program is one for this machine
    counts = {n: lowered(*stages[n], None, True).cost_analysis()["flops"] for n in VARIANTS if mesh}
    rows = {
        name: {"method": method, "variant": name, **facts(programs[name], counts.get(name))}
        for name in VARIANTS
    }
    if limits:
        took = in_turns({name: runner(*stages[name], programs[name]) for name in VARIANTS}, *limits)
        for name, row in rows.items():
            row["ms"] = spread(took[name])
            row["images_per_second"] = 1e3 * batch / row["ms"]["median"]
            row["times"] = spread([x / y for x, y in zip(took[name], took["alone"])])
    return [*rows.values()]

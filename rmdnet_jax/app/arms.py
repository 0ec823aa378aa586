"""The arms of an experiment: what is trained, or read off the teacher, side by side.

The experiment's own arm is as configured; controls differ from it in K, the labels learnt and the
first weights, and in nothing else. A frozen arm trains no network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rmdnet_jax.app.schema import Config, flatten

LARGEST = 30.0  # the most that K grows to by itself: what suits digits
OWN = "relation_guided"  # the stage of the experiment's own arm


class Arm(NamedTuple):
    """One row of an experiment's result."""

    name: str  # out of NAMES
    weight: float = 0.0  # K
    targets: str = "given"
    init: str = "random"
    stage: str = ""  # where its records and checkpoints are; "": nothing is trained
    rated: bool = False  # whether its method's noise rate is the graph's
    auto: bool = False  # whether K grows from 0 to `weight` as wrong labels are learnt

    @property
    def reads_teacher(self) -> bool:
        """Whether a teacher is needed."""
        return self.weight > 0 or self.reads_graph or self.init == "teacher" or not self.stage

    @property
    def reads_rate(self) -> bool:
        """Whether it needs the noise rate that the teacher's graph tells."""
        return self.rated or self.auto

    @property
    def reads_graph(self) -> bool:
        """Whether it needs what the teacher's graph tells of the labels."""
        return self.targets != "given" or self.reads_rate


TITLES = {
    "base": "{}",
    "base_from_teacher": "{} from teacher",
    "rmdnet": "{} + RMDNet",
    "propagation": "{} + corrected labels",
    "rmdnet_propagation": "{} + RMDNet + corrected labels",
    "rounds": "{} + rounds of correction",
    "rmdnet_rounds": "{} + RMDNet + rounds of correction",
    "teacher_knn": "teacher kNN, given labels",
    "teacher_probe": "teacher linear probe, given labels",
}
NAMES = tuple(TITLES)
CORRECTED = {"propagated": "propagation", "rounds": "rounds"}  # targets -> an arm's name
FROZEN = ("teacher_knn", "teacher_probe")
# What a base method is trained with besides, in every arm -> the field that says so.
WITH = {"mixup": "relation_guided.mixup", "consistency": "relation_guided.consistency.weight"}


def method_title(settings: Mapping[str, Any]) -> str:
    """What an arm's base method is called, by the arm's flat settings; "" for a frozen arm."""
    method = settings.get("relation_guided.method.name", "")
    return " + ".join([method, *(word for word, field in WITH.items() if settings.get(field))])


def title(method: str, arm: str) -> str:
    """What an arm is called; `method` as `method_title` has it."""
    return TITLES[arm].format(method)


def own(config: Config) -> Arm:
    """The experiment's own arm."""
    guided = config.relation_guided
    labels = CORRECTED.get(guided.targets, "")
    if guided.weight:
        name = f"rmdnet_{labels}" if labels else "rmdnet"
    else:
        name = labels or ("base_from_teacher" if guided.init == "teacher" else "base")
    arm = Arm(name, 0.0, guided.targets, guided.init, OWN, rated(config))
    return arm._replace(**_strength(config)) if guided.weight else arm


def _strength(config: Config) -> dict[str, Any]:
    """The fields of an arm with relations."""
    weight = config.relation_guided.weight
    return {"weight": LARGEST, "auto": True} if weight == "auto" else {"weight": weight}


def rated(config: Config) -> bool:
    """Whether the method takes its noise rate from the teacher's graph."""
    return config.relation_guided.method.get("rate") == "graph"


def arms(config: Config) -> list[Arm]:
    """All arms, the experiment's own first."""
    first = own(config)
    names = [name for name in dict.fromkeys(config.controls) if name != first.name]
    return [first, *(_control(name, config) for name in names)]


def _control(name: str, config: Config) -> Arm:
    trained = name not in FROZEN
    return Arm(
        name,
        **(_strength(config) if name.startswith("rmdnet") else {}),
        targets=next((t for t, labels in CORRECTED.items() if name.endswith(labels)), "given"),
        init="teacher" if name == "base_from_teacher" else "random",
        stage=f"controls/{name}" if trained else "",
        rated=trained and rated(config),
    )


def settings(config: Config, arm: Arm, teacher: dict[str, Any]) -> dict[str, Any]:
    """The settings that an arm reads, flat; `teacher` says how its teacher came about.

    Seeds and the noise are not among them: over seeds an arm is the same, and a noise has a column
    of its own in tables.
    """
    guided = config.relation_guided.to_dict()
    how = ("dir", "pipeline", "workers")
    data = {name: value for name, value in config.data.items() if name not in how}
    used: dict[str, Any] = {"encoder": config.encoder.to_dict(), "data": data}
    if arm.stage:
        names = ("method", "mixup", "augmentation", "optimizer", "epochs", "batch_size", "average")
        part = {name: guided[name] for name in names} | {"init": arm.init, "targets": arm.targets}
        if arm.weight:
            names = ("edge", "node", "anchors", "warmup_epochs", "teacher_features")
            part |= {"weight": guided["weight"]} | {name: guided[name] for name in names}
        if arm.reads_graph:
            part["propagation"] = guided["propagation"]
        if arm.targets == "rounds":
            part["rounds"] = guided["rounds"]
        if guided["consistency"]["weight"]:
            part |= {name: guided[name] for name in ("consistency", "strong")}
        used["relation_guided"] = part
    if arm.reads_teacher:
        used |= teacher
        used |= {"teacher_crops": config.teacher_crops} if config.teacher_crops else {}
    if arm.name == "teacher_knn":
        used["knn"] = config.relation_modeling.knn.to_dict()
    flat = flatten(used)  # as JSON holds it, so that a summary is what its file says
    return {name: list(v) if isinstance(v, tuple) else v for name, v in flat.items()}

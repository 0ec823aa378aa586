"""Digits: what each part of RMDNet is worth around cross entropy, one factor at a time from the settings of configs/digits.py.

python launch/sweep.py configs/digits_factors.py --workdir runs/factors --run    # hours; a part: --match 'teacher/simsiam|ablation'
python -m rmdnet_jax.report table runs/factors/base/* runs/factors/ablation/*       # likewise the other studies
python -m rmdnet_jax.report table runs/factors/noise/*
"""

from rmdnet_jax.app.config import ARGUMENTS, assemble, default, parse
from rmdnet_jax.relations.losses import EDGES, NODES
from rmdnet_jax.ssl import SSL
from rmdnet_jax.types import Config

SEEDS = range(10)
NOISES = {"symmetric": 0.5, "pair": 0.4}
TEMPERATURES = {"teacher": (0.02, 0.1), "student": (0.05, 0.2)}
OBJECTIVE_ARMS = {"": "", "_propagation": ",weight=0.0,targets=propagated"}
# study -> point -> arguments; what every study is held against is in `base`: cross entropy, and RMDNet with all at its default
STUDIES = {
    "base": {"base": "weight=0.0", "rmdnet": "", "propagation": "weight=0.0,targets=propagated"},
    "ablation": {
        "no_edge": "edge_weight=0.0",
        "no_node": "node_weight=0.0",
        "random_teacher": "modeling=0",
    },
    "objectives": {
        f"{name}{arm}": f"ssl={name}{more}"
        for name in SSL
        if name != "simsiam"
        for arm, more in OBJECTIVE_ARMS.items()
    },
    "edges": {name: f"edge={name}" for name in EDGES if name != "softmax_kl"},
    "nodes": {name: f"node={name}" for name in NODES if name != "cosine"},
    "strength": {f"{k:g}": f"weight={k}" for k in (1.0, 3.0, 10.0, 100.0)},
    "temperature": {
        f"{which}_{t:g}": f"{which}_temperature={t}"
        for which, values in TEMPERATURES.items()
        for t in values
    },
}
RATES = {
    "none": (0.0,),
    "symmetric": (0.2, 0.8),
    "pair": (0.2,),
    "instance": (0.2, 0.4),
}  # beside NOISES


def get_config(arg: str = "") -> Config:
    args = parse(
        arg, **ARGUMENTS, noise="symmetric", rate=0.5, teacher="", modeling=150, weight=30.0, edge_weight=1.0, node_weight=1.0,
        teacher_temperature=0.04, student_temperature=0.1, base=False, epochs=80,
    )  # fmt: skip
    config = default()
    config.teacher, config.controls = args.teacher, ("base",) if args.base else ()
    config.relation_modeling.epochs, config.relation_guided.epochs = args.modeling, args.epochs
    config = assemble(
        config, args, args.noise, **({} if args.noise == "none" else {"rate": args.rate})
    )
    guided = config.relation_guided
    guided.weight = args.weight
    guided.edge.weight *= args.edge_weight
    guided.node.weight *= args.node_weight
    if guided.edge.name == "softmax_kl":
        guided.edge.teacher_temperature, guided.edge.student_temperature = (
            args.teacher_temperature,
            args.student_temperature,
        )
    return config


def sweep(root: str) -> dict[str, str]:
    """Directory below `root` -> config argument, teachers before the students that they serve."""
    points = {
        f"teacher/{ssl}-{seed}": f"ssl={ssl},seed={seed},epochs=1" for ssl in SSL for seed in SEEDS
    }
    for seed in SEEDS:
        for study, choices in STUDIES.items():
            for point, arguments in choices.items():
                objective = dict(item.split("=") for item in arguments.split(",") if item).get(
                    "ssl", "simsiam"
                )
                teacher = f"{root}/teacher/{objective}-{seed}"
                for noise, rate in NOISES.items():
                    parts = [
                        f"seed={seed},noise={noise},rate={rate}",
                        arguments,
                        "" if "modeling" in arguments else f"teacher={teacher}",
                    ]
                    points[f"{study}/{noise}-{point}-{seed}"] = ",".join(filter(None, parts))
        for noise, rates in RATES.items():
            for rate in rates:
                here = (
                    f"seed={seed},noise={noise},rate={rate},teacher={root}/teacher/simsiam-{seed}"
                )
                points[f"noise/{noise}-{rate:g}-{seed}"] = f"{here},base"
                points[f"noise/{noise}-{rate:g}-propagation-{seed}"] = (
                    f"{here},weight=0.0,targets=propagated"
                )
    return points

"""Digits: what each part of RMDNet is worth around cross entropy, one factor at a time.

    rmdnet sweep studies/factors.py --workdir runs/factors --run   # a part: --match ablation
    rmdnet report table runs/factors/base/* runs/factors/ablation/*   # likewise the other studies
    rmdnet report table runs/factors/noise/*

The settings are those of configs/digits.py.
"""

from rmdnet_jax.app.presets import digits, experiment
from rmdnet_jax.relations.losses import EDGES, NODES
from rmdnet_jax.ssl import SSL

SEEDS = range(10)
NOISES = {"symmetric": 0.5, "pair": 0.4}
CORRECTED = "weight=0.0,targets=propagated"
OBJECTIVE_ARMS = {"": "", "_propagation": f",{CORRECTED}"}
EDGE, NODE = "relation_guided.edge", "relation_guided.node"
TEMPERATURES = {"teacher": (0.02, 0.1), "student": (0.05, 0.2)}
# study -> point -> arguments; `base` is what every study is held against
STUDIES = {
    "base": {"base": "weight=0.0", "rmdnet": "", "propagation": CORRECTED},
    "ablation": {
        "no_edge": f"{EDGE}.weight=0.0",
        "no_node": f"{NODE}.weight=0.0",
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
        f"{which}_{t:g}": f"{EDGE}.{which}_temperature={t}"
        for which, values in TEMPERATURES.items()
        for t in values
    },
}
# Beside NOISES.
RATES = {
    "none": ("",),
    "symmetric": (0.2, 0.8),
    "pair": (0.2,),
    "instance": (0.2, 0.4),
}


def get_config(arg: str = ""):
    return experiment(digits(), arg, noise="symmetric", rate=0.5)


def sweep(root: str) -> dict[str, str]:
    """Directory below `root` -> config argument, teachers before the students that they serve."""
    pairs = [(ssl, seed) for ssl in SSL for seed in SEEDS]
    points = {f"teacher/{ssl}-{seed}": f"ssl={ssl},seed={seed},epochs=1" for ssl, seed in pairs}
    for seed in SEEDS:
        for study, choices in STUDIES.items():
            for point, arguments in choices.items():
                objective = dict(item.split("=") for item in arguments.split(",") if item)
                place = f"{root}/teacher/{objective.get('ssl', 'simsiam')}-{seed}"
                teacher = "" if "modeling" in arguments else f"teacher={place}"
                for noise, rate in NOISES.items():
                    parts = (f"seed={seed},noise={noise},rate={rate}", arguments, teacher)
                    points[f"{study}/{noise}-{point}-{seed}"] = ",".join(filter(None, parts))
        for noise, rates in RATES.items():
            for rate in rates:
                name, said = (f"-{rate:g}", f",rate={rate}") if rate else ("", "")
                here = f"seed={seed},noise={noise}{said},teacher={root}/teacher/simsiam-{seed}"
                points[f"noise/{noise}{name}-{seed}"] = f"{here},controls=('base',)"
                points[f"noise/{noise}{name}-propagation-{seed}"] = f"{here},{CORRECTED}"
    return points

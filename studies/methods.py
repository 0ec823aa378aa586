"""Digits: every base method alone, with RMDNet, on corrected labels, and with both.

    rmdnet sweep studies/methods.py --workdir runs/methods --run      # hours; --match for a part
    rmdnet report table runs/methods/same/* ; rmdnet report table runs/methods/best/*
    rmdnet report table --best runs/methods/search/symmetric-*         # where BEST comes from

At the same settings (those of configs/digits.py) with teachers by SimSiam and by SimCLR; all but
the last arm each at its own best, too.
"""

import itertools

from rmdnet_jax.app.presets import digits, experiment
from rmdnet_jax.methods import METHODS

NOISES = {"symmetric": 0.5, "pair": 0.4}
TEACHERS = {"simsiam": "", "simclr": "simclr/"}  # objective -> where it and its students are
SEEDS, SEARCH_SEEDS = range(10), range(100, 102)
SEARCH = {  # eight points an arm
    "base": {"weight": (0.0,), "epochs": (12, 20, 40, 80), "learning_rate": (0.02, 0.1)},
    "rmdnet": {"weight": (1.0, 10.0), "epochs": (20, 80), "learning_rate": (0.02, 0.1)},
    "propagation": {
        "weight": (0.0,),
        "targets": ("propagated",),
        "epochs": (12, 20, 40, 80),
        "learning_rate": (0.02, 0.1),
    },
}
STRENGTHS = (0.3, 3.0, 30.0)
# Of STRENGTHS the best over the search seeds at symmetric noise, with teachers of either
# objective; else 30.
K = {"gce": 3.0, "co_teaching": 3.0, "jocor": 0.3, "dividemix": 0.3}
ARMS = {
    "rmdnet": "weight={}",
    "propagation": "weight=0.0,targets=propagated",
    "both": "weight={},targets=propagated",
}
# (noise, method, arm): the settings of the highest mean last accuracy over the search seeds.
BEST = {
    ("pair", "ce", "base"): "weight=0.0,epochs=12,learning_rate=0.02",
    ("pair", "ce", "propagation"): "weight=0.0,targets=propagated,epochs=80,learning_rate=0.02",
    ("pair", "ce", "rmdnet"): "weight=10.0,epochs=20,learning_rate=0.02",
    ("pair", "co_teaching", "base"): "weight=0.0,epochs=80,learning_rate=0.1",
    ("pair", "co_teaching", "rmdnet"): "weight=1.0,epochs=20,learning_rate=0.1",
    ("pair", "dividemix", "base"): "weight=0.0,epochs=40,learning_rate=0.02",
    ("pair", "dividemix", "rmdnet"): "weight=1.0,epochs=80,learning_rate=0.02",
    ("pair", "elr", "base"): "weight=0.0,epochs=12,learning_rate=0.1",
    ("pair", "elr", "propagation"): "weight=0.0,targets=propagated,epochs=80,learning_rate=0.02",
    ("pair", "elr", "rmdnet"): "weight=1.0,epochs=20,learning_rate=0.1",
    ("pair", "gce", "base"): "weight=0.0,epochs=40,learning_rate=0.02",
    ("pair", "gce", "propagation"): "weight=0.0,targets=propagated,epochs=20,learning_rate=0.1",
    ("pair", "gce", "rmdnet"): "weight=1.0,epochs=20,learning_rate=0.1",
    ("pair", "jocor", "base"): "weight=0.0,epochs=80,learning_rate=0.1",
    ("pair", "jocor", "rmdnet"): "weight=1.0,epochs=80,learning_rate=0.1",
    ("pair", "sce", "base"): "weight=0.0,epochs=12,learning_rate=0.1",
    ("pair", "sce", "propagation"): "weight=0.0,targets=propagated,epochs=12,learning_rate=0.02",
    ("pair", "sce", "rmdnet"): "weight=10.0,epochs=20,learning_rate=0.1",
    ("symmetric", "ce", "base"): "weight=0.0,epochs=20,learning_rate=0.02",
    ("symmetric", "ce", "propagation"): "weight=0.0,targets=propagated,epochs=80,learning_rate=0.1",
    ("symmetric", "ce", "rmdnet"): "weight=1.0,epochs=20,learning_rate=0.02",
    ("symmetric", "co_teaching", "base"): "weight=0.0,epochs=80,learning_rate=0.02",
    ("symmetric", "co_teaching", "rmdnet"): "weight=1.0,epochs=80,learning_rate=0.02",
    ("symmetric", "dividemix", "base"): "weight=0.0,epochs=80,learning_rate=0.1",
    ("symmetric", "dividemix", "rmdnet"): "weight=1.0,epochs=80,learning_rate=0.1",
    ("symmetric", "elr", "base"): "weight=0.0,epochs=40,learning_rate=0.02",
    (
        "symmetric",
        "elr",
        "propagation",
    ): "weight=0.0,targets=propagated,epochs=80,learning_rate=0.1",
    ("symmetric", "elr", "rmdnet"): "weight=10.0,epochs=80,learning_rate=0.1",
    ("symmetric", "gce", "base"): "weight=0.0,epochs=20,learning_rate=0.1",
    (
        "symmetric",
        "gce",
        "propagation",
    ): "weight=0.0,targets=propagated,epochs=80,learning_rate=0.02",
    ("symmetric", "gce", "rmdnet"): "weight=1.0,epochs=20,learning_rate=0.1",
    ("symmetric", "jocor", "base"): "weight=0.0,epochs=80,learning_rate=0.1",
    ("symmetric", "jocor", "rmdnet"): "weight=1.0,epochs=80,learning_rate=0.1",
    ("symmetric", "sce", "base"): "weight=0.0,epochs=12,learning_rate=0.1",
    (
        "symmetric",
        "sce",
        "propagation",
    ): "weight=0.0,targets=propagated,epochs=40,learning_rate=0.1",
    ("symmetric", "sce", "rmdnet"): "weight=1.0,epochs=20,learning_rate=0.02",
}


def get_config(arg: str = ""):
    return experiment(digits(), arg, noise="symmetric", rate=0.5)


def _same(place: str, noise: str, method: str, ssl: str, here: str, seed: int) -> dict[str, str]:
    """Every arm at the settings of configs/digits.py."""
    points = {}
    for arm, arguments in ARMS.items():
        # What it is beside any teacher.
        base = ",controls=('base',)" if (arm, ssl) == ("rmdnet", "simsiam") else ""
        text = arguments.format(K.get(method, 30.0))
        points[f"{place}same/{noise}-{method}-{arm}-{seed}"] = f"{here},{text}{base}"
    return points


def _searched(noise: str, method: str, here: str, seed: int) -> dict[str, str]:
    """The search of every arm, or its best settings."""
    points = {}
    for arm, choices in SEARCH.items():
        if seed in SEEDS and (noise, method, arm) in BEST:
            points[f"best/{noise}-{method}-{arm}-{seed}"] = f"{here},{BEST[noise, method, arm]}"
        for values in itertools.product(*choices.values()) if seed in SEARCH_SEEDS else ():
            settings = ",".join(f"{name}={value}" for name, value in zip(choices, values))
            name = "-".join(map(str, (noise, method, *values, seed)))
            points[f"search/{name}"] = f"{here},{settings}"
    return points


def sweep(root: str) -> dict[str, str]:
    """Directory below `root` -> config argument, teachers before the students that they serve."""
    seeds = (*SEARCH_SEEDS, *SEEDS)
    points = {
        f"{place}teacher/{seed}": f"ssl={ssl},seed={seed},epochs=1"
        for ssl, place in TEACHERS.items()
        for seed in seeds
    }
    cells = itertools.product(TEACHERS.items(), NOISES.items(), METHODS, seeds)
    for (ssl, place), (noise, rate), method, seed in cells:
        here = f"ssl={ssl},seed={seed},noise={noise},rate={rate},method={method}"
        here += f",teacher={root}/{place}teacher/{seed}"
        if seed in SEEDS:
            points |= _same(place, noise, method, ssl, here, seed)
        for weight in (0.0, *STRENGTHS) if seed in SEARCH_SEEDS else ():
            name = f"{place}strength/{noise}-{method}-{weight:g}-{seed}"
            points[name] = f"{here},weight={weight}"
        if ssl == "simsiam":
            points |= _searched(noise, method, here, seed)
    return points

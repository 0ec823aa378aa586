"""Digits: every base method alone, with RMDNet, with labels corrected over the graph (our extension), and with both, at the same
settings (those of configs/digits.py) with teachers by SimSiam and by SimCLR; all but the last each at its own best, too.

python launch/sweep.py configs/digits_methods.py --workdir runs/methods --run                   # hours on two cores; --match for a part
python -m rmdnet_jax.report table runs/methods/same/* ; python -m rmdnet_jax.report table runs/methods/best/*
python -m rmdnet_jax.report table --best runs/methods/search/symmetric-*                        # where BEST comes from
"""

import itertools

from rmdnet_jax.app.config import ARGUMENTS, assemble, default, parse, pick
from rmdnet_jax.methods import METHODS
from rmdnet_jax.types import Config

NOISES = {"symmetric": 0.5, "pair": 0.4}
TEACHERS = {
    "simsiam": "",
    "simclr": "simclr/",
}  # objective -> where its teachers and their students are
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
# Of STRENGTHS the best over the search seeds at symmetric noise, with teachers of either objective; else 30.
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


def get_config(arg: str = "") -> Config:
    args = parse(
        arg,
        **ARGUMENTS,
        noise="symmetric",
        teacher="",
        weight=30.0,
        epochs=80,
        learning_rate=0.05,
        base=False,
    )
    config = default()
    guided = config.relation_guided
    config.teacher, config.controls = args.teacher, ("base",) if args.base else ()
    guided.weight, guided.epochs, guided.optimizer.learning_rate = (
        args.weight,
        args.epochs,
        args.learning_rate,
    )
    return assemble(config, args, args.noise, rate=pick("noise", args.noise, NOISES))


def sweep(root: str) -> dict[str, str]:
    """Directory below `root` -> config argument, teachers before the students that they serve."""
    seeds = (*SEARCH_SEEDS, *SEEDS)
    points = {
        f"{place}teacher/{seed}": f"ssl={ssl},seed={seed},epochs=1"
        for ssl, place in TEACHERS.items()
        for seed in seeds
    }
    for (ssl, place), noise, method, seed in itertools.product(
        TEACHERS.items(), NOISES, METHODS, seeds
    ):
        here = f"ssl={ssl},seed={seed},noise={noise},method={method},teacher={root}/{place}teacher/{seed}"
        for arm, arguments in ARMS.items() if seed in SEEDS else ():
            base = (
                ",base" if (arm, ssl) == ("rmdnet", "simsiam") else ""
            )  # what it is beside any teacher
            points[f"{place}same/{noise}-{method}-{arm}-{seed}"] = (
                f"{here},{arguments.format(K.get(method, 30.0))}{base}"
            )
        for weight in (0.0, *STRENGTHS) if seed in SEARCH_SEEDS else ():
            points[f"{place}strength/{noise}-{method}-{weight:g}-{seed}"] = (
                f"{here},weight={weight}"
            )
        for arm, choices in SEARCH.items() if ssl == "simsiam" else ():
            if seed in SEEDS and (noise, method, arm) in BEST:
                points[f"best/{noise}-{method}-{arm}-{seed}"] = f"{here},{BEST[noise, method, arm]}"
            for values in itertools.product(*choices.values()) if seed in SEARCH_SEEDS else ():
                settings = ",".join(f"{name}={value}" for name, value in zip(choices, values))
                points[f"search/{noise}-{method}-{'-'.join(map(str, values))}-{seed}"] = (
                    f"{here},{settings}"
                )
    return points

"""The study behind the digits' settings: every arm searched on seeds apart from the reported ones.

    rmdnet sweep studies/digits.py --workdir runs/study --run     # 497 runs, hours on two cores
    rmdnet report table runs/study/same/* ; rmdnet report table runs/study/best/*

The grid is the same for all arms; the best of RMDNet from the teacher at symmetric noise is of a
wider search by hand (docs/results-tables.md).
"""

import itertools

from rmdnet_jax.app.presets import digits, experiment

NOISES = {"pair": 0.4, "symmetric": 0.5}
A, T = "relation_guided.augmentation", "relation_guided.edge.teacher_temperature"
INIT = "relation_guided.init=teacher"
ARMS = {
    "base": "weight=0",
    "base_from_teacher": f"weight=0,{INIT}",
    "rmdnet": "",
    "rmdnet_from_teacher": INIT,
    "propagation": "weight=0,targets=propagated",  # studies/methods.py searches it
}
WEIGHTS = (3.0, 10.0, 30.0)
SEARCH = {f"{A}.name": ("none", "shift"), "epochs": (20, 80), "learning_rate": (0.02, 0.1)}
SEARCH_SEEDS, SEEDS = range(100, 103), range(10)
CONTROLS = "controls=('base','base_from_teacher','teacher_knn','teacher_probe')"
# (noise, arm): the settings with the highest mean last accuracy over the search seeds.
BEST = {
    ("pair", "base"): f"{A}.name=none,epochs=20,learning_rate=0.02",
    ("pair", "base_from_teacher"): f"{A}.name=shift,epochs=20,learning_rate=0.02",
    ("pair", "rmdnet"): f"{A}.name=none,epochs=20,learning_rate=0.02,weight=3",
    ("symmetric", "base"): f"{A}.name=none,epochs=20,learning_rate=0.02",
    ("symmetric", "base_from_teacher"): f"{A}.name=none,epochs=20,learning_rate=0.02",
    (
        "symmetric",
        "rmdnet_from_teacher",
    ): f"{A}.name=shift,epochs=20,learning_rate=0.1,weight=1,relation_guided.node.weight=0,{T}=0.1",
}


def get_config(arg: str = ""):
    return experiment(digits(), arg, noise="pair", rate=0.4)


def sweep(root: str) -> dict[str, str]:
    """Directory below `root` -> config argument, teachers before the students that they serve."""
    points = {}
    for seed in (*SEARCH_SEEDS, *SEEDS):
        points[f"teacher/{seed}"] = f"seed={seed},epochs=1"
        for noise, rate in NOISES.items():
            here = f"seed={seed},noise={noise},rate={rate},teacher={root}/teacher/{seed}"
            if seed in SEARCH_SEEDS:
                points |= _search(here, noise, seed)
                continue
            points[f"same/{noise}-{seed}"] = f"{here},{CONTROLS}"
            points[f"same/{noise}-propagation-{seed}"] = f"{here},{ARMS['propagation']}"
            for arm, arguments in ARMS.items():
                if (noise, arm) in BEST:
                    parts = filter(None, (here, arguments, BEST[noise, arm]))
                    points[f"best/{noise}-{arm}-{seed}"] = ",".join(parts)
    return points


def _search(here: str, noise: str, seed: int) -> dict[str, str]:
    points = {}
    grid = itertools.product(itertools.product(*SEARCH.values()), ARMS.items())
    for values, (arm, arguments) in grid:
        settings = ",".join(f"{name}={value}" for name, value in zip(SEARCH, values))
        for weight in () if "propagated" in arguments else WEIGHTS:
            if arm.startswith("base") and weight != WEIGHTS[0]:
                continue
            k = [] if arm.startswith("base") else [f"weight={weight}"]
            name = "-".join(map(str, (noise, arm, f"{weight:g}", *values, seed)))
            points[f"search/{name}"] = ",".join(filter(None, (here, arguments, *k, settings)))
    return points

"""Digits with 40 % pair noise: RMDNet and corrected labels beside the controls; `make demo`.

    rmdnet train --config configs/digits_asym.py --workdir runs/demo

Last accuracy over seeds 0 to 9, before 0.2.0: RMDNet 74.3 ± 2.9 %, cross entropy 61.2 ± 3.9 %,
cross entropy on corrected labels 97.1 ± 1.1 %. Two cores of an AMD EPYC; docs/results-tables.md.
"""

from rmdnet_jax.app.presets import digits, experiment

CONTROLS = ("base", "propagation", "base_from_teacher", "teacher_knn", "teacher_probe")


def get_config(arg: str = ""):
    values = {"noise": "asymmetric", "rate": 0.4, "noise.mapping": "pair", "controls": CONTROLS}
    return experiment(digits(), arg, **values)

"""Digits with 40 % asymmetric (pair) noise: cross entropy + RMDNet beside its controls; what `make demo` runs.

    python -m rmdnet_jax.main --config configs/digits_asym.py --workdir runs/demo
"""

from ml_collections import ConfigDict

from rmdnet_jax.config import CONTROLS, assemble, default, parse


def get_config(arg: str = "") -> ConfigDict:
    arg = parse(arg, quick=False, rate=0.4, method="ce", seed=0)
    config = default()
    config.controls = CONTROLS
    return assemble(config, arg, "asymmetric", rate=arg.rate, mapping="pair")

"""Digits with 40 % asymmetric (pair) noise: cross entropy + RMDNet beside its controls; what `make demo` runs.

python -m rmdnet_jax.main --config configs/digits_asym.py --workdir runs/demo

Last accuracy over seeds 0 to 9: 75.0 ± 2.2 %, cross entropy 61.0 ± 1.6 %; 56 s with all controls (n = 5) on two cores of an AMD EPYC.
"""

from rmdnet_jax.app.config import ARGUMENTS, CONTROLS, assemble, default, parse
from rmdnet_jax.types import Config


def get_config(arg: str = "") -> Config:
    args = parse(arg, **ARGUMENTS, rate=0.4)
    config = default()
    config.controls = CONTROLS
    return assemble(config, args, "asymmetric", rate=args.rate, mapping="pair")

"""CIFAR-100 with asymmetric noise, by default 40 %: to the next class of the same superclass.

    python -m rmdnet_jax.main --config configs/cifar100_asym.py --workdir runs/cifar100_asym
    python -m rmdnet_jax.main --config configs/cifar100_asym.py:small --workdir runs/small      # minutes on two cores

Not yet measured at full size: that needs an accelerator.
"""

from rmdnet_jax.app.config import ARGUMENTS, assemble, cifar, parse
from rmdnet_jax.types import Config


def get_config(arg: str = "") -> Config:
    args = parse(arg, **ARGUMENTS, small=False, rate=0.4)
    return assemble(cifar("cifar100"), args, "asymmetric", rate=args.rate, mapping="cifar100")

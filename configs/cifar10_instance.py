"""CIFAR-10 with instance-dependent noise, by default 40 %: labels move by what is in the image.

    python -m rmdnet_jax.main --config configs/cifar10_instance.py --workdir runs/cifar10_instance

Not yet measured: that needs an accelerator.
"""

from rmdnet_jax.app.config import ARGUMENTS, assemble, cifar, parse
from rmdnet_jax.types import Config


def get_config(arg: str = "") -> Config:
    args = parse(arg, **ARGUMENTS, small=False, rate=0.4)
    return assemble(cifar("cifar10"), args, "instance", rate=args.rate)

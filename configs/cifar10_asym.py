"""CIFAR-10 with asymmetric noise, by default 40 %: each of five classes to the one it is mistaken for.

    python -m rmdnet_jax.main --config configs/cifar10_asym.py --workdir runs/cifar10_asym
    python -m rmdnet_jax.main --config configs/cifar10_asym.py:small --workdir runs/small      # minutes on two cores

`small`, one seed, images from JPEG, two CPU cores, jax 0.10: 50.2 %, cross entropy 52.8 % (last).
Not yet measured at full size: that needs an accelerator.
"""

from rmdnet_jax.app.config import ARGUMENTS, assemble, cifar, parse
from rmdnet_jax.types import Config


def get_config(arg: str = "") -> Config:
    args = parse(arg, **ARGUMENTS, small=False, rate=0.4)
    return assemble(cifar("cifar10"), args, "asymmetric", rate=args.rate, mapping="cifar10")

"""CIFAR-100 with symmetric noise, by default 50 % moved to other classes.

    rmdnet train --config configs/cifar100_sym.py --workdir runs/cifar100_sym
    rmdnet train --config configs/cifar100_sym.py:rate=0.8,inclusive --workdir runs/redrawn
    rmdnet train --config configs/cifar100_sym.py:small --workdir runs/small  # minutes

With `inclusive` labels are redrawn from all classes, as in most papers.
Not yet measured at full size: that needs an accelerator.
"""

from rmdnet_jax.app.presets import cifar, experiment


def get_config(arg: str = ""):
    return experiment(cifar("cifar100"), arg, noise="symmetric", rate=0.5)

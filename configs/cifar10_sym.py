"""CIFAR-10 with symmetric noise, by default 50 % moved to other classes.

    rmdnet train --config configs/cifar10_sym.py --workdir runs/cifar10_sym
    rmdnet train --config configs/cifar10_sym.py:rate=0.8,inclusive --workdir runs/redrawn
    rmdnet train --config configs/cifar10_sym.py:small --workdir runs/small  # minutes

With `inclusive` labels are redrawn from all classes, as in most papers.
Not yet measured at full size: that needs an accelerator.
"""

from rmdnet_jax.app.presets import cifar, experiment


def get_config(arg: str = ""):
    return experiment(cifar("cifar10"), arg, noise="symmetric", rate=0.5)

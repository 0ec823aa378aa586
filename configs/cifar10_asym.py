"""CIFAR-10 with asymmetric noise, by default 40 %: each of five classes to the one it is
mistaken for.

    rmdnet train --config configs/cifar10_asym.py --workdir runs/cifar10_asym
    rmdnet train --config configs/cifar10_asym.py:small --workdir runs/small  # minutes

`small`, one seed, images from JPEG, two CPU cores, jax 0.10: 50.2 %, cross entropy 52.8 %
(last).
Not yet measured at full size: that needs an accelerator.
"""

from rmdnet_jax.app.presets import cifar, experiment


def get_config(arg: str = ""):
    return experiment(cifar("cifar10"), arg, noise="asymmetric", rate=0.4)

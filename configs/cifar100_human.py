"""CIFAR-100 with human labels (CIFAR-100N, Wei et al., ICLR 2022), from a file that you have: one label an image, in the original order.

    python -m rmdnet_jax.main --config configs/cifar100_human.py:path=labels.npz,field=noisy_label --workdir runs/cifar100_human

`path` may be .npy, .npz (the array named `field`) or .csv; with --config.data.name=cifar100_n and path=,field=noise_label the
labels are TFDS's.
Not yet measured at full size: that needs an accelerator.
"""

from rmdnet_jax.app.config import ARGUMENTS, assemble, cifar, parse
from rmdnet_jax.types import Config


def get_config(arg: str = "") -> Config:
    args = parse(arg, **ARGUMENTS, small=False, path="cifar100n.npz", field="noisy_label")
    return assemble(cifar("cifar100"), args, "file", path=args.path, field=args.field)

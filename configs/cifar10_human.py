"""CIFAR-10 with human labels (CIFAR-10N, Wei et al., ICLR 2022), from a file that you have: one label an image, in the original order.

    python -m rmdnet_jax.main --config configs/cifar10_human.py:path=labels.npz,field=worse_label --workdir runs/cifar10_human

CIFAR-N comes as a .pt file: `np.savez("cifar10n.npz", **torch.load("CIFAR-10_human.pt", weights_only=False))` makes it one of ours.
`path` may be .npy, .npz (the array named `field`) or .csv; with --config.data.name=cifar10_n and an empty path= the labels are TFDS's.
Not yet measured at full size: that needs an accelerator.
"""

from rmdnet_jax.app.config import ARGUMENTS, assemble, cifar, parse
from rmdnet_jax.types import Config


def get_config(arg: str = "") -> Config:
    args = parse(arg, **ARGUMENTS, small=False, path="cifar10n.npz", field="worse_label")
    return assemble(cifar("cifar10"), args, "file", path=args.path, field=args.field)

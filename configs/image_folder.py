"""Your own images with labels that may be wrong, as they are: folders `train/<class>/*.png`, optionally `test/<class>/*.png`.

    python -m rmdnet_jax.main --config configs/image_folder.py:dir=photos,size=64 --workdir runs/photos
    python -m rmdnet_jax.main --config configs/image_folder.py:kind=npz,dir=photos.npz --workdir runs/photos

No labels are changed. Give `test/` only if its labels are right; without it, hold out noisy ones: --config.data.validation=0.1.
"""

from ml_collections import ConfigDict

from rmdnet_jax.config import assemble, cifar, parse


def get_config(arg: str = "") -> ConfigDict:
    arg = parse(arg, quick=False, small=False, dir="", kind="folder", size=32, method="ce", seed=0)
    config = cifar(arg.kind)
    config.data.dir, config.data.image_size = arg.dir, arg.size
    return assemble(config, arg, "none")

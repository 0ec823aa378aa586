"""Your own images with labels that may be wrong, as they are: folders `train/<class>/*.png`, optionally `test/<class>/*.png`.

    python -m rmdnet_jax.main --config configs/image_folder.py:dir=photos,size=64 --workdir runs/photos
    python -m rmdnet_jax.main --config configs/image_folder.py:kind=npz,dir=photos.npz --workdir runs/photos

No labels are changed. Give `test/` only if its labels are right; without it, hold out noisy ones: --config.data.validation=0.1.
"""

from rmdnet_jax.app.config import ARGUMENTS, assemble, cifar, parse
from rmdnet_jax.types import Config


def get_config(arg: str = "") -> Config:
    args = parse(arg, **ARGUMENTS, small=False, dir="", kind="folder", size=32)
    config = cifar(args.kind)
    config.data.dir, config.data.image_size = args.dir, args.size
    return assemble(config, args, "none")

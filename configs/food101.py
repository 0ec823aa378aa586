"""Food-101 (Bossard et al., ECCV 2014) of TFDS: 75,750 photos, some of whose labels are wrong.

    rmdnet train --config configs/food101.py:dir=data --workdir runs/food101
    rmdnet train --config configs/food101.py:dir=data,noise=symmetric,rate=0.4 --workdir runs/sym40

`dir` is TFDS's folder. Its training labels were never cleaned; the 25,250 test labels were. Images
are decoded as they are needed, where all do not fit in memory. Not yet measured: that needs an
accelerator.
"""

from rmdnet_jax.app.presets import cifar, experiment

SETTINGS = {
    "encoder": "resnet50",
    "size": 224,
    "relation_modeling.batch_size": 256,
    "relation_guided.batch_size": 256,
    "relation_guided.teacher_features": "stored",
    "noise": "none",
}


def get_config(arg: str = ""):
    return experiment(cifar("food101"), arg, **SETTINGS)

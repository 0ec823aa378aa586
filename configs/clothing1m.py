"""Clothing1M (Xiao et al., CVPR 2015): a million photos of clothes, labels from web pages.

    rmdnet train --config configs/clothing1m.py:dir=clothing1m --workdir runs/clothing1m

The folder holds `images/` and the lists that its authors give out: `noisy_train_key_list.txt`,
`noisy_label_kv.txt`, `clean_test_key_list.txt`, `clean_label_kv.txt`. The 14,000 test labels are
clean. Images are decoded as they are needed. Tried on a small folder of this layout; not yet
measured on the real one, which needs an accelerator.
"""

from rmdnet_jax.app.presets import cifar, experiment

SETTINGS = {
    "encoder": "resnet50",
    "size": 224,
    "relation_modeling.epochs": 20,
    "relation_modeling.batch_size": 256,
    "relation_modeling.evaluate_every": 5,
    "relation_guided.epochs": 10,
    "relation_guided.batch_size": 256,
    "relation_guided.teacher_features": "stored",
    "noise": "none",
}


def get_config(arg: str = ""):
    return experiment(cifar("clothing1m"), arg, **SETTINGS)

"""Which self-supervised teacher knows most after as many image-passes: kNN accuracy on CIFAR-10.

    rmdnet sweep studies/teachers.py --workdir runs/teachers --run

An image-pass is one view that goes forward and backward. All 50,000 images, the small CNN twice as
wide as in `small`. The features of `emp` are means over 16 crops.
"""

import itertools

from rmdnet_jax.app.presets import cifar, experiment

SEEDS = range(3)
# Image-passes in millions -> epochs of two views.
LENGTHS = {"0.5": 5, "1": 10, "2": 20}
WIDE = "encoder.widths=(32,64,128,256),relation_modeling.knn.k=200"
# Objective -> its arguments, and its views.
TEACHERS = {
    "simclr": ("ssl=simclr,relation_modeling.ssl.temperature=0.2", 2),
    "simsiam": ("ssl=simsiam", 2),
    "simsiam5": ("ssl=simsiam,relation_modeling.ssl.views=5", 5),
    "emp": (
        "ssl=emp,relation_modeling.ssl.views=10,relation_modeling.batch_size=100,"
        "relation_modeling.ssl.hidden=1024,relation_modeling.ssl.projection=512,"
        "relation_modeling.optimizer.learning_rate=0.006,"
        "relation_modeling.augmentation.min_scale=0.25,"
        "relation_modeling.augmentation.max_scale=0.25,teacher_crops=16",
        10,
    ),
}


def get_config(arg: str = ""):
    return experiment(cifar("cifar10"), arg, noise="symmetric", rate=0.5)


def sweep(root: str) -> dict[str, str]:
    """Directory below `root` -> config argument."""
    points = {}
    for (name, (arguments, views)), (length, epochs), seed in itertools.product(
        TEACHERS.items(), LENGTHS.items(), SEEDS
    ):
        size = f"modeling={2 * epochs // views},epochs=0,limit=0,controls=(),seed={seed}"
        points[f"{name}-{length}-{seed}"] = f"small,{WIDE},{arguments},{size}"
    return points

"""CIFAR-10 under five noises: RMDNet and its controls, corrected labels, and both.

    rmdnet sweep studies/cifar10.py --workdir runs/cifar10 --run --match ^full  # an accelerator
    rmdnet report table runs/cifar10/full/[afis]*

On a CPU take `^small` or `^medium`. Symmetric noise is `inclusive`, as in the published figures.
Human labels (CIFAR-10N) are read from `cifar10n.npz`.
"""

import itertools

from rmdnet_jax.app.presets import cifar, experiment

SEEDS = range(3)
NOISES = {
    "symmetric-0.5": "noise=symmetric,rate=0.5,inclusive",
    "symmetric-0.8": "noise=symmetric,rate=0.8,inclusive",
    "asymmetric-0.4": "noise=asymmetric,rate=0.4",
    "file-0": "noise=file,path=cifar10n.npz,field=worse_label",
    "instance-0.4": "noise=instance,rate=0.4",
}
CONTROLS = "controls=('base','base_from_teacher','teacher_knn','teacher_probe')"
ARMS = {
    "rmdnet": CONTROLS,
    "propagation": "weight=0.0,targets=propagated,controls=()",
    "both": "targets=propagated,controls=()",
}
WIDE = "encoder.widths=(32,64,128,256),relation_modeling.ssl.temperature=0.2"
USE = "relation_guided.propagation.in_doubt=use"
# Size -> arguments of all its runs, and of its teachers besides. A CPU's teacher is by SimCLR,
# which knows more after 10 epochs, and sees all images, its students the first 5,000; or both are
# twice as wide, the teacher learns for longer and the students see 10,000.
SIZES = {
    "full": ("", ""),
    "small": ("small,ssl=simclr", "limit=50000,modeling=10"),
    "medium": (f"small,ssl=simclr,{WIDE},limit=10000,{USE}", "limit=50000,modeling=32"),
}


def get_config(arg: str = ""):
    return experiment(cifar("cifar10"), arg, noise="symmetric", rate=0.5)


def sweep(root: str) -> dict[str, str]:
    """Directory below `root` -> config argument, teachers before the students that they serve."""
    points = {}
    for (size, (common, teachers)), seed in itertools.product(SIZES.items(), SEEDS):
        here = ",".join(filter(None, (f"seed={seed}", common)))
        teacher = f"{size}/teacher/{seed}"
        points[teacher] = ",".join(filter(None, (here, teachers, "epochs=1,controls=()")))
        for (name, noise), (arm, arguments) in itertools.product(NOISES.items(), ARMS.items()):
            point = f"{size}/{name}-{arm}-{seed}"
            points[point] = f"{here},{noise},{arguments},teacher={root}/{teacher}"
    return points

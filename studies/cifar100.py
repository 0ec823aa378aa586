"""CIFAR-100, 40 % asymmetric noise, on a CPU: RMDNet and corrected labels beside their controls.

    rmdnet sweep studies/cifar100.py --workdir runs/cifar100 --run
    rmdnet report table runs/cifar100/rmdnet/* runs/cifar100/both/*

SimCLR's teacher sees all 50,000 images, in half a million image-passes. Students learn from 10,000.
"""

from rmdnet_jax.app.presets import cifar, experiment

SEEDS = range(3)
WIDE = "small,encoder.widths=(32,64,128,256),relation_modeling.knn.k=50"
TEACHER = (
    f"{WIDE},ssl=simclr,relation_modeling.ssl.temperature=0.2,modeling=5,limit=0,epochs=0,"
    "controls=()"
)
ARMS = {
    "rmdnet": "controls=('base','propagation','teacher_knn','teacher_probe')",
    "both": "targets=propagated,controls=()",
}


def get_config(arg: str = ""):
    return experiment(cifar("cifar100"), arg, noise="asymmetric", rate=0.4)


def sweep(root: str) -> dict[str, str]:
    """Directory below `root` -> config argument; one teacher serves all seeds."""
    points = {"teacher": TEACHER}
    for seed in SEEDS:
        for arm, arguments in ARMS.items():
            student = f"{WIDE},limit=10000,epochs=20,teacher={root}/teacher,seed={seed}"
            points[f"{arm}/{seed}"] = f"{student},{arguments}"
    return points

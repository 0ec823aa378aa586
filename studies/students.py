"""What keeps a student from wrong labels on 5,000 photographs, given one good teacher.

    rmdnet sweep studies/students.py --workdir runs/students --run
    rmdnet report table runs/students/symmetric-0.5-*

It reads `photos.npz` (images and clean labels), `features.npz` (the teacher's, by example) and
`human.npz` (`worse_label`) where it is started. All arms but `augmented` see crops and flips.
"""

import itertools

from rmdnet_jax.app.presets import cifar, experiment

SEEDS = range(3)
NOISES = {
    "none": "noise=none",
    "symmetric-0.5": "noise=symmetric,rate=0.5,inclusive",
    "symmetric-0.8": "noise=symmetric,rate=0.8,inclusive",
    "asymmetric-0.4": "noise=asymmetric,rate=0.4,noise.mapping=cifar10",
    "human": "noise=file,path=human.npz,field=worse_label",
}
CORRECTED = "weight=0,targets=propagated"
CONSISTENT = "relation_guided.consistency.weight=1"
ARMS = {
    "rmdnet": "controls=('base','teacher_knn','teacher_probe')",
    "auto": "weight=auto",
    "corrected": CORRECTED,
    "augmented": f"{CORRECTED},relation_guided.augmentation.name=randaugment",
    "consistent": f"{CORRECTED},{CONSISTENT}",
    "rounds": "weight=0,targets=rounds",
    "consistent-rounds": f"weight=0,targets=rounds,{CONSISTENT}",
    "base-consistent": f"weight=0,{CONSISTENT}",
}
SHARED = (
    "small,controls=(),data=photos.npz,limit=0,teacher=features.npz,epochs=40,"
    "relation_guided.augmentation.name=crop_flip,relation_guided.propagation.in_doubt=use"
)


def get_config(arg: str = ""):
    return experiment(cifar("cifar10"), arg, noise="symmetric", rate=0.5, controls=())


def sweep(root: str) -> dict[str, str]:
    """Directory below `root` -> config argument."""
    return {
        f"{noise}-{arm}-{seed}": f"{SHARED},seed={seed},{kind},{arguments}"
        for seed, (arm, arguments), (noise, kind) in itertools.product(
            SEEDS, ARMS.items(), NOISES.items()
        )
    }

import jax
import numpy as np
import optax
from sklearn import datasets, decomposition

import rmdnet_jax as rmd

images, clean = datasets.load_digits(return_X_y=True)
teacher = decomposition.PCA(20, random_state=0).fit_transform(images)  # or any model's features
random, optimizer = np.random.default_rng(0), optax.adam(3e-3)
given = np.where(random.random(1797) < 0.5, random.integers(0, 10, 1797), clean)  # 45 % are wrong
start = {"hidden": random.normal(0, 0.1, (64, 128)), "head": random.normal(0, 0.1, (128, 10))}


def loss(params, target, x, label, K):
    feature = jax.nn.relu(x / 16 @ params["hidden"])
    errors = optax.softmax_cross_entropy_with_integer_labels(feature @ params["head"], label)
    return errors.mean() + K * rmd.softmax_kl(feature, target)


slopes, update = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))), jax.jit(optimizer.update)
for K in (0.0, 3.0):
    params, state, losses = start, optimizer.init(start), []
    for batch in np.concatenate([random.permutation(1200).reshape(-1, 100) for _ in range(60)]):
        value, (slope, none) = slopes(params, teacher[batch], images[batch], given[batch], K)
        assert not none.any()  # the teacher gets no gradient
        change, state = update(slope, state)
        params, losses = optax.apply_updates(params, change), [*losses, float(value)]
    guess = (jax.nn.relu(images[1200:] @ params["hidden"]) @ params["head"]).argmax(1)
    print(f"{K=}: loss {losses[0]:.2f} to {value:.2f}, right {np.mean(guess == clean[1200:]):.0%}")

"""The PyTorch reference beside ours, in float64.

The same weights give the same features, losses, gradients and training.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch reference needs the extra `torch`")

from benchmarks.torch_reference import losses as torch_losses
from benchmarks.torch_reference import models as torch_models
from benchmarks.torch_reference import train as torch_train
from rmdnet_jax.data.resident import Examples, Pipeline
from rmdnet_jax.methods import METHODS
from rmdnet_jax.networks import encoders as encoder
from rmdnet_jax.networks import weights
from rmdnet_jax.relations import losses as relation
from rmdnet_jax.ssl import simsiam
from rmdnet_jax.training import steps
from rmdnet_jax.training.objectives import classifier, relation_guided, relation_modeling
from rmdnet_jax.training.optimizer import sgd
from rmdnet_jax.types import Batch, Variables

BATCH, SIZE, CLASSES, STEPS = 16, 8, 5, 20
NETWORKS = {
    "cnn": ({"widths": (4, 8)}, {"widths": (4, 8)}),
    "resnet18": ({"width": 4}, {"width": 4}),
    "resnet34": ({"width": 2}, {"width": 2}),
    "wrn28_2": ({"width": 2}, {"width": 2}),
}
pytestmark = pytest.mark.usefixtures("x64")


def images(seed, *shape):
    return np.random.default_rng(seed).normal(size=(*shape, SIZE, SIZE, 3))


def nchw(image):
    return torch.from_numpy(image).permute(0, 3, 1, 2)


def ours(name):
    return encoder.ENCODERS[name](**NETWORKS[name][0], dtype="float64")


def theirs(name):
    return torch_models.ENCODERS[name](**NETWORKS[name][1])


def load(module, variables):
    """Our arrays in a PyTorch module, entry by entry; only its counters have no counterpart."""
    state = {
        key: torch.from_numpy(value.copy()) for key, value in weights.state_dict(variables).items()
    }
    missing, unexpected = module.double().load_state_dict(state, strict=False)
    assert all(key.endswith("num_batches_tracked") for key in missing)
    assert not unexpected
    return module.train()


def close(one, two, rtol=1e-8, atol=1e-8):
    np.testing.assert_allclose(np.asarray(one), np.asarray(two), rtol=rtol, atol=atol)


def same_parameters(params, module):
    state = module.state_dict()
    converted = weights.state_dict(Variables(params, {}))
    assert converted.keys() == dict(module.named_parameters()).keys()
    for key, value in converted.items():
        close(value, state[key].numpy())


def same_statistics(variables, module, forwards, counts):
    """Running means agree, and running variances once PyTorch's n / (n - 1) is put in.

    Both start at 1 and decay by 0.9 a forward.
    """
    state, start = module.state_dict(), 0.9**forwards
    converted = weights.state_dict(Variables({}, variables.stats))
    assert converted
    for key, value in converted.items():
        if key.endswith("running_mean"):
            close(value, state[key].numpy())
        else:
            n = counts[key.removesuffix(".running_var")]
            close((value - start) * n / (n - 1) + start, state[key].numpy())


def counted(module):
    """{norm layer: values a channel's statistics are taken over}, filled at the next forward."""
    counts = {}
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            layer.register_forward_hook(
                lambda _, x, y, name=name: counts.update({name: y.numel() // y.shape[1]})
            )
    return counts


def stage(objective, batches, rate, teacher=None):
    """A stage of fixed batches: the real step, without data and augmentation."""
    rows = [
        Examples(jnp.asarray(image), jnp.asarray(label), jnp.arange(BATCH), teacher=teacher)
        for image, label in batches
    ]
    pipeline = Pipeline(STEPS, BATCH, lambda step: rows[step])
    optimizer = sgd(STEPS, 1, learning_rate=rate)
    objective = objective._replace(
        init=lambda key, image, init=objective.init: init(key, image[0])
    )  # images of these rows have a view axis
    return steps.Stage(
        "parity",
        objective,
        optimizer,
        pipeline,
        lambda rows, key: Batch(rows.image, rows.given, rows.index, rows.teacher),
        jax.random.key(0),
        1,
        0.0,
        lambda *_: {},
    )


def run(stage, state):
    """Our steps; losses and the final state."""
    step, values = (
        jax.jit(lambda state, frozen, rows, key: steps.step(stage, state, frozen, rows, key)),
        [],
    )
    for i in range(STEPS):
        state, value = step(state, stage.objective.frozen, stage.pipeline.batch(i), stage.key)
        values.append(float(value))
    return state, values


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("train", [True, False])
def test_features_and_gradients(name, train):
    network, image = ours(name), images(0, BATCH)
    variables = jax.tree.map(
        lambda x: x + 0.05, network.init(jax.random.key(0), jnp.asarray(image))
    )
    module = load(theirs(name), variables).train(train)

    def value(params):
        return jnp.mean(
            jnp.square(
                network.apply(Variables(params, variables.stats), jnp.asarray(image), train)[0]
            )
        )

    feature = module(nchw(image))
    feature.square().mean().backward()
    scale = np.abs(
        feature.detach().numpy()
    ).max()  # in eval mode, features of unfitted statistics grow with depth
    close(
        network.apply(variables, jnp.asarray(image), train)[0] / scale,
        feature.detach().numpy() / scale,
    )
    gradient = weights.state_dict(Variables(jax.grad(value)(variables.params), {}))
    for key, parameter in module.named_parameters():
        scale = np.abs(parameter.grad.numpy()).max()
        close(gradient[key] / scale, parameter.grad.numpy() / scale)


@pytest.mark.parametrize("name", ["softmax_kl", "cosine"])
def test_relation_losses_and_gradients(name):
    student, teacher = np.random.default_rng(0).normal(size=(2, 16, 6))
    loss = (relation.EDGES | relation.NODES)[name]
    s = torch.from_numpy(student).requires_grad_()
    value = {"softmax_kl": torch_losses.edge, "cosine": torch_losses.node}[name](
        s, torch.from_numpy(teacher)
    )
    value.backward()
    mine, gradient = jax.value_and_grad(loss)(jnp.asarray(student), jnp.asarray(teacher))
    close(mine, value.detach().numpy())
    close(gradient, s.grad.numpy())


@pytest.mark.parametrize("name", ["cnn", "resnet18"])
def test_twenty_steps_of_relation_modeling(name):
    rate = 0.01
    batches = [(images(10 + i, 2, BATCH), np.zeros(BATCH, np.int32)) for i in range(STEPS)]
    made = stage(
        relation_modeling(simsiam(ours(name), "float64", projection=16, hidden=8), 1), batches, rate
    )
    state = steps.initial(made, (), made.pipeline.batch(0), made.key)
    module = load(torch_models.SimSiam(theirs(name), 16, 8), state.variables)
    counts = counted(module)
    optimizer, schedule = torch_train.sgd(module, rate, STEPS)
    state, mine = run(made, state)
    values = []
    for image, _ in batches:
        values.append(
            float(torch_train.simsiam_step(module, optimizer, nchw(image[0]), nchw(image[1])))
        )
        schedule.step()
    close(mine, values)
    same_parameters(state.variables.params, module)
    same_statistics(state.variables, module, 2 * STEPS, counts)


@pytest.mark.parametrize("features", ["online", "stored"])
@pytest.mark.parametrize("name", ["cnn", "resnet18"])
def test_twenty_steps_of_relation_guided_learning(name, features):
    rate, weight = 0.01, 3.0
    generator = np.random.default_rng(5)
    batches = [
        (images(30 + i, 1, BATCH), generator.integers(0, CLASSES, BATCH).astype(np.int32))
        for i in range(STEPS)
    ]
    network = ours(name)
    frozen = jax.tree.map(
        lambda x: x + 0.05, network.init(jax.random.key(1), jnp.asarray(batches[0][0][0]))
    )
    teacher = load(theirs(name), frozen).eval().requires_grad_(False)
    kept = teacher(nchw(batches[0][0][0])) if features == "stored" else None
    student = classifier(network, CLASSES, dtype="float64")
    objective = relation_guided(
        student, METHODS["ce"](BATCH, CLASSES), network, frozen if kept is None else None,
        weight=weight, edge=relation.softmax_kl, node=relation.cosine,
    )  # fmt: skip
    made = stage(objective, batches, rate, None if kept is None else jnp.asarray(kept.numpy()))
    state = steps.initial(made, objective.frozen, made.pipeline.batch(0), made.key)
    module = load(
        torch_models.Student(theirs(name), CLASSES),
        Variables(state.variables.params[0], state.variables.stats[0]),
    )
    counts = counted(module)
    optimizer, schedule = torch_train.sgd(module, rate, STEPS)
    state, mine = run(made, state)
    values = []
    for image, label in batches:
        target = teacher if kept is None else kept
        values.append(
            float(
                torch_train.guided_step(
                    module,
                    optimizer,
                    nchw(image[0]),
                    torch.from_numpy(label).long(),
                    target,
                    weight,
                )
            )
        )
        schedule.step()
    close(mine, values)
    same_parameters(state.variables.params[0], module)
    same_statistics(Variables({}, state.variables.stats[0]), module, STEPS, counts)

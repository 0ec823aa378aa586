"""State dicts: names and layout, there and back; files that are read, files that are refused."""

import jax
import numpy as np
import pytest
from conftest import assert_same, tiny
from safetensors.numpy import load_file, save_file

from rmdnet_jax.app import experiment
from rmdnet_jax.errors import UserError
from rmdnet_jax.networks import encoders as encoder
from rmdnet_jax.networks import weights

# Names of torchvision's resnet18, by its documentation of the architecture.
RESNET18 = {
    "conv1.weight": (64, 3, 3, 3),  # 7x7 there: here the CIFAR stem
    "bn1.running_var": (64,),
    "layer1.0.conv1.weight": (64, 64, 3, 3),
    "layer2.0.downsample.0.weight": (128, 64, 1, 1),
    "layer2.0.downsample.1.bias": (128,),
    "layer4.1.bn2.running_mean": (512,),
}


def drawn(network, seed=0, shape=(1, 32, 32, 3)):
    """A network's arrays with arbitrary values."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros(shape, np.float32))
    return jax.tree.map(
        lambda leaf: np.random.default_rng(seed).uniform(0.1, 0.3, leaf.shape).astype(leaf.dtype),
        shapes,
    )


def test_a_resnet_has_torchvisions_names_and_layout():
    state = weights.state_dict(drawn(encoder.resnet18()))
    assert {name: state[name].shape for name in RESNET18} == RESNET18
    assert (
        len(state) == 60 + 40
    )  # 20 convolutions and norms: a kernel, scale, bias; mean and variance


@pytest.mark.parametrize("name", encoder.ENCODERS)
@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone."])
def test_there_and_back(name, prefix):
    network = encoder.ENCODERS[name](**({"widths": (4, 8)} if name == "cnn" else {"width": 4}))
    variables = drawn(network)
    state = {prefix + key: value for key, value in weights.state_dict(variables).items()}
    assert len(state) == len(jax.tree.leaves(variables)), "two leaves share a name"
    state |= {"fc.weight": np.zeros((10, 512)), prefix + "bn1.num_batches_tracked": np.int64(3)}
    assert_same(weights.from_state_dict(state, variables, "teacher"), variables)


def test_a_networks_own_names_and_layout_come_back_too():
    variables = drawn(encoder.cnn(widths=(4, 8)))
    state = weights.state_dict(variables, own=True)
    assert state["params.conv1.kernel"].shape == (3, 3, 3, 4)
    assert_same(weights.from_state_dict(state, variables, "teacher", own=True), variables)


def test_what_does_not_fit_is_named():
    variables = drawn(encoder.cnn(widths=(4, 8)))
    state = weights.state_dict(variables)
    with pytest.raises(UserError, match=r"teacher must hold .* no entry 'bn2.running_var'"):
        weights.from_state_dict(
            {k: v for k, v in state.items() if k != "bn2.running_var"}, variables, "teacher"
        )
    with pytest.raises(
        UserError, match=r"teacher must hold .* 'conv1.weight' has shape \(4, 1, 3, 3\)"
    ):
        weights.from_state_dict(
            {**state, "conv1.weight": state["conv1.weight"][:, :1]}, variables, "teacher"
        )


def hugging_faces(state):
    """A ResNet's state dict under the names of `transformers`, entry by entry."""
    found = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] in ("conv1", "bn1"):
            kind = {"conv1": "convolution", "bn1": "normalization"}[parts[0]]
            new = ["embedder", "embedder", kind]
        else:
            stage, block, part = int(parts[0][-1]) - 1, parts[1], parts[2]
            new = ["encoder", "stages", str(stage), "layers", block]
            if part == "downsample":
                new += ["shortcut", ("convolution", "normalization")[int(parts[3])]]
            else:
                kind = "convolution" if part[:-1] == "conv" else "normalization"
                new += ["layer", str(int(part[-1]) - 1), kind]
        found[".".join(["resnet", *new, parts[-1]])] = value
    return found | {"classifier.1.weight": np.zeros((7, 5)), "classifier.1.bias": np.zeros(7)}


RESNETS = ("resnet18", "resnet34", "resnet50")


@pytest.mark.parametrize("stem", encoder.STEMS)
@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("rename", [dict, hugging_faces], ids=["torchvision, timm", "transformers"])
def test_resnets_are_known_by_the_names_of_others(rename, name, stem):
    variables = drawn(encoder.ENCODERS[name](stem=stem, width=4))
    state = rename(weights.state_dict(variables))
    assert weights.described(state) == {"name": name, "stem": stem, "width": 4}
    assert_same(weights.from_state_dict(state, variables, "teacher"), variables)
    inner = {f"model.{key}": value for key, value in state.items()}
    assert weights.described(inner) == weights.described(state)


@pytest.mark.parametrize("name", ["cnn", "preact_resnet18", "wrn28_2"])
def test_other_networks_are_not_taken_for_a_resnet(name):
    network = encoder.ENCODERS[name](**({"widths": (4, 8)} if name == "cnn" else {"width": 4}))
    assert weights.described(weights.state_dict(drawn(network))) is None


@pytest.mark.parametrize("name", RESNETS)
def test_a_block_more_is_another_network(name):
    state = weights.state_dict(drawn(encoder.ENCODERS[name](width=4)))
    more = {n.replace("layer3.1.", "layer3.17."): x for n, x in state.items()}
    assert weights.described(state | more) is None
    assert weights.described({n: x for n, x in state.items() if "layer3.1." not in n}) is None


def test_layers_more_are_refused():
    network = encoder.ENCODERS["resnet18"](width=4)
    like = drawn(network)
    more = {"layer1.0.se.fc1.weight": np.zeros(3, np.float32)}
    counted = {"layer1.0.bn1.num_batches_tracked": np.array(7)}
    state = weights.state_dict(like)
    weights.from_state_dict(state | counted, like, "teacher")
    with pytest.raises(UserError, match=r"^teacher .* has more layers: 'layer1\.0\.se\.fc1"):
        weights.from_state_dict(state | more, like, "teacher")


def test_a_resnet_by_its_names_teaches_another_network(tmp_path):
    resnet = encoder.ENCODERS["resnet18"](width=2)
    variables = resnet.init(jax.random.key(0), np.zeros((1, 8, 8, 1)))
    save_file(hugging_faces(weights.state_dict(variables)), tmp_path / "theirs.safetensors")
    config = tiny(teacher=str(tmp_path / "theirs.safetensors"), epochs=1)
    experiment.run(config, tmp_path / "run")
    config = tiny(teacher=config.teacher, epochs=1, **{"relation_guided.init": "teacher"})
    with pytest.raises(UserError, match=r"another architecture: encoder .*resnet18.* there, .*cnn"):
        experiment.run(config, tmp_path / "again")


def test_a_file_is_a_teacher_and_the_student_becomes_one(tmp_path):
    first = drawn(encoder.cnn(widths=(4, 8)), shape=(1, 8, 8, 1))
    save_file(weights.state_dict(first), tmp_path / "mine.safetensors")
    fields = {"relation_guided.init": "teacher", "epochs": 1}
    config = tiny(teacher=str(tmp_path / "mine.safetensors"), **fields)
    summary = experiment.run(config, tmp_path / "run").summary
    assert summary["relation_modeling"] == {"teacher": config.teacher}
    student = load_file(tmp_path / "run" / "student.safetensors")
    assert student["fc.weight"].shape == (10, 8)
    assert np.abs(student["conv1.weight"] - weights.state_dict(first)["conv1.weight"]).max() < 0.5
    config = tiny(teacher=str(tmp_path / "run" / "student.safetensors"), **fields)
    experiment.run(config, tmp_path / "again")


def test_pytorch_files_are_read_and_never_run(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra `torch`")
    variables = drawn(encoder.cnn(widths=(4, 8)))
    state = {
        name: torch.from_numpy(value.copy())
        for name, value in weights.state_dict(variables).items()
    }
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.pt")
    assert_same(
        weights.from_state_dict(weights.read(tmp_path / "a.pt", "teacher"), variables, "teacher"),
        variables,
    )

    class Harm:
        def __reduce__(self):
            return (tmp_path.joinpath("harmed").touch, ())

    torch.save({"state_dict": Harm()}, tmp_path / "b.pt")
    with pytest.raises(UserError, match=r"teacher .*b\.pt' cannot be read"):
        weights.read(tmp_path / "b.pt", "teacher")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("name", ["broken.safetensors", "absent.safetensors"])
def test_files_that_cannot_be_read_are_named(name, tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"not a file of weights")
    with pytest.raises(UserError, match=rf"teacher .*{name}' cannot be read"):
        weights.read(tmp_path / name, "teacher")


def test_a_file_has_the_permissions_of_its_neighbours(tmp_path):
    weights.write(tmp_path / "student.safetensors", weights.state_dict(drawn(encoder.cnn())), {})
    (tmp_path / "neighbour").write_text("")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_whole_numbers_of_a_pytorch_file_are_no_weights(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra `torch`")
    variables = drawn(encoder.cnn(widths=(4, 8)))
    state = weights.state_dict(variables)
    whole = {n: torch.from_numpy(x.astype(np.int64)) for n, x in state.items()}
    torch.save(whole, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"is of int64, not of floats"):
        weights.from_state_dict(weights.read(tmp_path / "a.pt", "teacher"), variables, "teacher")

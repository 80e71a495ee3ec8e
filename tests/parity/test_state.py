"""State dicts as pytrees and back, in both layouts, and from files that are not trusted."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from jax import lax
from torch import nn

import funcgrad as fg
from funcgrad.parity.arrays import by_name, to_numpy, to_tensor

pytestmark = pytest.mark.torch


class Zoo(nn.Module):
    """A layer of every kind whose kernels the layouts differ in, and some of which they do not."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.conv1 = nn.Conv1d(4, 6, 3, groups=2)
        self.conv2 = nn.Conv2d(2, 3, (3, 5))
        self.conv3 = nn.Conv3d(1, 2, 2)
        self.up1 = nn.ConvTranspose1d(2, 3, 4)
        self.up2 = nn.ConvTranspose2d(4, 6, (2, 3), groups=2)
        self.lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2)
        self.cell = nn.GRUCell(3, 4)
        self.attention = nn.MultiheadAttention(4, 2, kdim=3, vdim=5)
        self.embedding = nn.Embedding(7, 3)
        self.bilinear = nn.Bilinear(2, 3, 4)
        self.norm = nn.BatchNorm2d(3)
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.LayerNorm(2)])
        self.raw = nn.Parameter(torch.randn(2, 3))


@pytest.fixture(scope="module")
def zoo():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Zoo()


def test_parameters_are_nested_dicts_under_torchs_names(zoo):
    params = fg.parity.params_of(zoo)
    assert params["blocks"]["0"]["weight"].shape == (2, 2)
    expected = {name: to_numpy(p) for name, p in zoo.named_parameters()}
    got = by_name(params)
    assert got.keys() == expected.keys()
    assert all(isinstance(x, jax.Array) and np.array_equal(x, expected[name]) for name, x in got.items())


@pytest.mark.parametrize("layout", ["torch", "jax"])
def test_a_state_dict_comes_back_as_it_was(zoo, layout):
    tree = fg.parity.from_state_dict(zoo.state_dict(), zoo, layout)
    back = fg.parity.to_state_dict(tree, zoo, layout)
    assert list(back) == list(zoo.state_dict())
    for name, x in zoo.state_dict().items():
        assert torch.equal(back[name], x.to(back[name].dtype)), name
    zoo.load_state_dict(back)


def test_only_kernels_change_their_layout(zoo):
    state, tree = zoo.state_dict(), by_name(fg.parity.from_state_dict(zoo.state_dict(), zoo, "jax"))
    moved = {name for name, x in state.items() if not np.array_equal(tree[name], to_numpy(x))}
    kernels = {name for name in state if name.split(".")[-1].startswith("weight") or "proj_weight" in name}
    same = {"embedding.weight", "bilinear.weight", "norm.weight", "blocks.1.weight"}
    assert moved == (kernels | {"attention.out_proj.weight"}) - same


def test_a_module_on_the_meta_device_says_how_to_lay_out(zoo):
    with torch.device("meta"):
        empty = Zoo()
    tree = fg.parity.from_state_dict(zoo.state_dict(), empty, "jax")
    assert tree["linear"]["weight"].shape == (3, 2)
    with pytest.raises(ValueError, match="meta device"):
        fg.parity.params_of(empty)


@pytest.mark.parametrize("layer", [nn.Conv2d(2, 3, (3, 2)), nn.Conv2d(4, 6, 3, groups=2)], ids=["plain", "groups"])
def test_a_kernel_in_jaxs_layout_convolves_as_torch_does(layer):
    x = torch.randn(2, layer.in_channels, 6, 5)
    p = fg.parity.params_of(layer, layout="jax")
    got = lax.conv_general_dilated(
        jnp.asarray(x.permute(0, 2, 3, 1).numpy()), p["weight"], (1, 1), "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=layer.groups,
    ) + p["bias"]  # fmt: skip
    np.testing.assert_allclose(got, layer(x).permute(0, 2, 3, 1).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolutions_kernel_in_jaxs_layout_is_that_of_a_dilated_one(groups):
    layer = nn.ConvTranspose2d(4, 6, (3, 2), stride=2, groups=groups)
    x = torch.randn(2, 4, 5, 4)
    p = fg.parity.params_of(layer, layout="jax")
    got = lax.conv_general_dilated(
        jnp.asarray(x.permute(0, 2, 3, 1).numpy()), p["weight"], (1, 1), ((2, 2), (1, 1)), lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    ) + p["bias"]  # fmt: skip
    np.testing.assert_allclose(got, layer(x).permute(0, 2, 3, 1).detach().numpy(), atol=1e-5)


def test_linear_kernels_in_jaxs_layout_are_what_fg_nn_takes():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    params = fg.parity.params_of(module, layout="jax")
    x = torch.randn(5, 3)
    got = fg.nn.mlp([params["0"], params["2"]], jnp.asarray(x.numpy()))
    np.testing.assert_allclose(got, module(x).detach().numpy(), atol=1e-6)


def test_shared_parameters_and_buffers_are_filled_in_from_the_module():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5)
            self.head.weight = self.embed.weight
            self.norm = nn.BatchNorm1d(3)

    module = Tied()
    params = fg.parity.params_of(module)
    assert list(params["head"]) == ["bias"]
    state = fg.parity.to_state_dict(jax.tree.map(lambda x: x + 1, params), module)
    assert torch.equal(state["head.weight"], state["embed.weight"])
    assert torch.equal(state["norm.running_var"], torch.ones(3))
    module.load_state_dict(state)


def test_what_does_not_fit_the_module_is_refused():
    module = nn.Linear(3, 2)
    params = fg.parity.params_of(module)
    with pytest.raises(ValueError, match="params misses bias and has scale, which the module does not"):
        fg.parity.to_state_dict({"weight": params["weight"], "scale": params["bias"]}, module)
    with pytest.raises(ValueError, match=r"'weight' has shape \(3, 2\) in torch's layout.*layout='torch'"):
        fg.parity.to_state_dict({**params, "weight": params["weight"].T}, module)
    with pytest.raises(ValueError, match="needs the module"):
        fg.parity.from_state_dict(module.state_dict(), layout="jax")
    with pytest.raises(ValueError, match="'torch' or 'jax', not 'flax'"):
        fg.parity.from_state_dict(module.state_dict(), module, layout="flax")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.bool, torch.uint8])
def test_arrays_go_from_side_to_side_without_a_change(dtype):
    x = torch.tensor([[0.0, 1.5], [-2.25, 3.0]]).abs().to(dtype).T
    there = fg.parity.from_state_dict({"x": x})["x"]
    assert str(there.dtype) == str(dtype).removeprefix("torch.") and there.shape == (2, 2)
    back = to_tensor(there)
    assert torch.equal(back.to(dtype), x)
    back[0, 0] = 7
    assert there[0, 0] == 0 and x[0, 0] == 0  # nothing is shared


def test_a_sparse_gradient_is_an_array():
    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1, 1])).sum().backward()
    assert to_numpy(table.weight.grad).tolist() == [[0, 0], [2, 2], [0, 0], [0, 0]]


def test_float64_is_not_cut_in_silence():
    layer = nn.Linear(2, 2).double()
    with pytest.raises(TypeError, match=r"'weight' is float64, which jax would cut"):
        fg.parity.params_of(layer)
    with jax.enable_x64(True):
        assert fg.parity.params_of(layer)["weight"].dtype == np.float64


# Files


@pytest.mark.parametrize("save", [safetensors.torch.save_file, torch.save], ids=["safetensors", "torch.save"])
def test_a_state_dict_is_loaded_by_what_the_file_is(tmp_path, save):
    state = {"a.weight": torch.randn(3, 2), "a.half": torch.randn(4).to(torch.bfloat16)}
    save(state, tmp_path / "weights.bin")
    loaded = fg.parity.load_state_dict(tmp_path / "weights.bin")
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[name], x) for name, x in state.items())


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    "save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x, protocol=2))], ids=["torch", "pickle"]
)
def test_code_in_a_file_is_not_run(tmp_path, save):
    save({"weight": torch.ones(2), "x": Harmful(tmp_path / "written")}, tmp_path / "weights.pt")
    with pytest.raises(pickle.UnpicklingError):
        fg.parity.load_state_dict(tmp_path / "weights.pt")
    assert not (tmp_path / "written").exists()


def test_a_checkpoint_that_holds_more_than_tensors_is_refused_with_its_keys(tmp_path):
    torch.save({"model": {"weight": torch.ones(2)}, "epoch": 3}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="a dict of 'model', 'epoch', not tensors by name"):
        fg.parity.load_state_dict(tmp_path / "checkpoint.pt")

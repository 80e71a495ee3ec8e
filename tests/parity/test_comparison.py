"""Which difference is rounding, and which is a bug."""

from __future__ import annotations

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.ad_checkpoint import checkpoint_name
from torch import nn
from torch.nn import functional as F

import funcgrad as fg
from tests.parity.ports import PORTS, in_dtype, linear

pytestmark = pytest.mark.torch

DTYPES = [jnp.float32, jnp.bfloat16]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ports():
    """Models by kind and seed, built once."""
    made = {}
    return lambda kind, seed=0: made.setdefault((kind, seed), PORTS[kind](seed))


def held(port, dtype=jnp.float32, **changes):
    params, batch = in_dtype(fg.parity.params_of(port.module), dtype), in_dtype(port.batch, dtype)
    torch_loss = fg.parity.module_loss(port.module, port.loss)
    return fg.parity.compare(partial(port.jax_loss, **changes), torch_loss, params, *batch)


# Faithful ports


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", PORTS)
def test_a_faithful_port_is_equal(ports, kind, dtype):
    for seed in range(3):
        report = held(ports(kind, seed), dtype)
        assert report.ok, str(report)
        assert report.first_value is None and report.first_cotangent is None
    names = [name for name, _ in ports(kind).module.named_parameters()]
    assert [row.path for row in report.leaves] == names
    assert report.dtype == jnp.dtype(dtype).name
    assert str(report).startswith("equal but for rounding")


@pytest.mark.parametrize("kind", ["convnet", "transformer"])
def test_what_moves_in_low_precision_is_small_against_what_is_allowed_in_float64(ports, kind):
    report = held(ports(kind), jnp.bfloat16)
    assert max(row.max_rel for row in report.leaves) > 1e-2
    # The transformer has a table of positions, in float32, which moves its float64 run by more than rounding there.
    margin = 1 if kind == "transformer" else 0.1
    assert all(row.apart < margin * row.allowed for row in report.rows())


def test_a_port_is_compared_in_float64_too(ports):
    with jax.enable_x64(True):
        report = held(ports("mlp"), jnp.float64)
    assert report.ok and report.dtype == "float64"
    assert all(row.jax_error == row.torch_error == 0 or row.max_abs < 1e-15 for row in report.rows())


# Bugs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kind", "bug", "value", "cotangent", "leaves"),
    [
        ("mlp", "tanh", "1", "4", ()),
        ("mlp", "transposed", "2", "4", ("2.bias", "2.weight")),
        ("mlp", "no bias", "2", "4", ("2.bias", "2.weight")),
        ("mlp", "sum", "loss", "4", ()),
        ("convnet", "eps", "norm", "head", ("norm.bias", "norm.weight")),
        ("transformer", "eps", "block.norm2", "norm", ("block.norm2.bias", "block.norm2.weight")),
        ("transformer", "tanh", "block.linear2", "norm", ("block.linear2.bias", "block.linear2.weight")),
        ("lstm", "no bias", "lstm", "head", None),
        ("lstm", "gates", "lstm", "head", None),
    ],
)
def test_a_planted_bug_is_a_mismatch_and_the_first_value_to_part_is_its_own(
    ports, kind, bug, value, cotangent, leaves, dtype
):
    for seed in range(3):
        report = held(ports(kind, seed), dtype, bug=bug)
        assert not report.ok
        assert report.first_value.name == value
        assert report.first_cotangent.name == cotangent
        if leaves is not None:
            assert sorted(report.first_value.leaves) == list(leaves)
    with pytest.raises(AssertionError, match=f"mismatch[^$]*first value to part: {value} "):
        report.raise_if_mismatch()


def test_a_missing_bias_is_the_leaf_that_the_jax_side_does_not_use(ports):
    report = held(ports("mlp"), bug="no bias")
    assert [row.path for row in report.leaves if row.hint] == ["2.bias"]
    assert "not used on the jax side" in str(report)


def test_a_sum_for_a_mean_is_named_by_its_factor(ports):
    report = held(ports("mlp"), bug="sum")
    assert all("8 times what it is on the torch side" in row.hint for row in report.leaves)


def test_only_leaves_that_differ_are_mismatches():
    def torch_loss(params, x):
        return (params["a"] * x).sum() + (params["b"] * x).sum()

    def jax_loss(params, x):
        return jnp.sum(params["a"] * x) + jnp.sum(params["b"] * jax.lax.stop_gradient(1.001 * x)) - 0.001 * jnp.sum(x)

    params = {"a": jnp.ones(3), "b": jnp.ones(3)}
    report = fg.parity.compare(jax_loss, torch_loss, params, np.arange(3, dtype=np.float32))
    assert [row.path for row in report.leaves if not row.ok] == ["b"]
    assert report.loss.ok and "it is a derivative that differs" in str(report)


# Named values


def two_layers(torch_layout=lambda x: x):
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Linear(3, 3)
            self.view = nn.Identity()
            self.again = nn.Linear(3, 3)

        def forward(self, x):
            return self.again(self.view(torch_layout(self.again(self.scale(x)))))

    torch.manual_seed(0)
    return Module()


def test_a_derivative_that_differs_parts_on_the_way_back_only():
    module = two_layers()
    params = fg.parity.params_of(module)

    def jax_loss(params, x, y):
        x = checkpoint_name(linear(params["scale"], x), "scale")
        x = checkpoint_name(linear(params["again"], x), "again")
        x = checkpoint_name(jax.lax.stop_gradient(0.5 * x) + 0.5 * x, "view")
        x = checkpoint_name(linear(params["again"], x), "again")
        return jnp.mean((x - y) ** 2)

    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    report = fg.parity.compare(jax_loss, fg.parity.module_loss(module, F.mse_loss), params, x, x)
    assert report.loss.ok and report.first_value is None
    assert (report.first_cotangent.name, report.first_cotangent.after) == ("again", "view")


def test_modules_called_twice_are_told_apart_by_call():
    module = two_layers()

    def jax_loss(params, x, y):
        x = checkpoint_name(linear(params["again"], linear(params["scale"], x)), "again")
        x = checkpoint_name(linear(params["again"], 1.001 * x), "again")
        return jnp.mean((x - y) ** 2)

    x = np.ones((2, 3), np.float32)
    torch_loss = fg.parity.module_loss(module, F.mse_loss)
    report = fg.parity.compare(jax_loss, torch_loss, fg.parity.params_of(module), x, x)
    assert report.first_value.name == "again (call 2)"


@pytest.mark.parametrize(
    "wrap", [jax.jit, jax.checkpoint, jax.vmap, "scan", "cond"], ids=["jit", "checkpoint", "vmap", "scan", "cond"]
)
def test_values_are_found_inside_of_calls_and_loops(wrap):
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh())

    def forward(p, x):
        return jnp.tanh(checkpoint_name(linear(p, 1.001 * x), "0"))

    def jax_loss(params, x, y):
        p = params["0"]
        if wrap == "scan":
            _, out = jax.lax.scan(lambda carry, x: (carry, forward(p, x)), None, x[None])
            out = out[0]
        elif wrap == "cond":
            out = jax.lax.cond(jnp.sum(x) > 0, forward, lambda p, x: x, p, x)
        elif wrap is jax.vmap:
            out = jax.vmap(forward, (None, 0))(p, x)
        else:
            out = wrap(forward)(p, x)
        return jnp.mean((out - y) ** 2)

    x = np.ones((2, 3), np.float32)
    torch_loss = fg.parity.module_loss(module, F.mse_loss)
    report = fg.parity.compare(jax_loss, torch_loss, fg.parity.params_of(module), x, x)
    assert (report.first_value.name, report.first_cotangent.name) == ("0", "0")


def test_names_that_cannot_be_compared_are_noted():
    module = two_layers()

    def jax_loss(params, x, y):
        x = checkpoint_name(linear(params["scale"], x), "again")
        x = checkpoint_name(x.reshape(-1), "scale").reshape(2, 3)
        return jnp.mean((x - y) ** 2)

    x = np.ones((2, 3), np.float32)
    torch_loss = fg.parity.module_loss(module, F.mse_loss)
    report = fg.parity.compare(jax_loss, torch_loss, fg.parity.params_of(module), x, x)
    assert "'again' is there 1 times on jax's side and 2 on torch's" in str(report)
    assert "'scale' is not compared: its shape is (6,) on jax's side and (2, 3) on torch's" in str(report)


def test_a_report_without_names_says_how_to_name(ports):
    port = ports("lstm")

    def jax_loss(params, x, y):
        return jnp.mean(params["head"]["weight"]) * 0

    torch_loss = fg.parity.module_loss(port.module, port.loss)
    report = fg.parity.compare(jax_loss, torch_loss, fg.parity.params_of(port.module), *port.batch)
    assert "checkpoint_name(x, name): lstm, head." in str(report)


# What makes the verdict hard


def test_a_gradient_that_is_nothing_but_rounding_is_no_mismatch(ports):
    bias = next(row for row in held(ports("convnet")).leaves if row.path == "conv1.bias")
    assert bias.ok and bias.max_rel > 0.1 and bias.max_abs < 1e-6  # a normalisation takes every shift away


def test_what_cancels_to_the_last_bit_in_float32_alone_is_no_mismatch():
    def jax_loss(params):
        return jnp.sum(params["a"] * 0.1 * 3 - params["a"] * 0.3) + jnp.sum(params["b"])

    def torch_loss(params):
        return (params["a"] * 0.3 - params["a"] * 0.3).sum() + params["b"].sum()

    cancelled = fg.parity.compare(jax_loss, torch_loss, {"a": jnp.ones(3), "b": jnp.ones(3)}).leaves[0]
    assert cancelled.verdict == "equal" and cancelled.max_abs == 0 and cancelled.apart > 0


def test_a_float32_run_gone_wild_hides_no_bug():
    def jax_loss(params):
        wild = params["w"].dtype == jnp.float32
        return jnp.sum(params["w"] * (1e20 if wild else 1.001))

    report = fg.parity.compare(jax_loss, lambda params: params["w"].sum(), {"w": jnp.ones(3)})
    assert [row.verdict for row in report.rows()] == ["mismatch", "mismatch"]


def test_an_unstable_formula_is_rounding_and_noted():
    def jax_loss(params, x):
        x = params["w"] * x
        return jnp.mean((x + 1000) ** 2) - (jnp.mean(x) + 1000) ** 2

    x = np.linspace(0, 1, 6, dtype=np.float32)
    report = fg.parity.compare(jax_loss, lambda p, x: (p["w"] * x).var(correction=0), {"w": jnp.ones(6)}, x)
    assert report.ok and "The jax side rounds over 100 times as much as the other" in str(report)


def test_casts_to_a_narrower_dtype_inside_do_not_blur_the_float64_runs():
    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 4))

        def forward(self, x):
            wide = x.to(torch.float32)
            scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
            return F.softmax(self.weight * scaled.to(x.dtype), -1, dtype=torch.float32).type_as(x)

    def jax_loss(params, x, y, eps=1e-6):
        wide = x.astype(jnp.float32)
        scaled = wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + eps)
        out = jnp.zeros(x.shape, jnp.float32).at[:].set(jax.nn.softmax(params["weight"] * scaled.astype(x.dtype)))
        return jnp.mean((out.astype(x.dtype) - y) ** 2)

    torch_loss = fg.parity.module_loss(Norm(), F.mse_loss)
    params = fg.parity.params_of(torch_loss.module)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    report = fg.parity.compare(jax_loss, torch_loss, params, x, x)
    assert report.ok and all(row.apart < 1e-14 for row in report.rows())
    assert not fg.parity.compare(partial(jax_loss, eps=1.01e-6), torch_loss, params, x, x).ok


def test_constants_that_a_function_closes_over_are_widened():
    weight = torch.tensor([0.5, 2.0])
    table = np.array([[0.5], [2.0]], np.float32)

    def torch_loss(params, x):
        return (F.linear(x, params["w"]) @ weight).sum()

    def jax_loss(params, x):
        return jnp.sum(x @ params["w"].T @ table)

    report = fg.parity.compare(jax_loss, torch_loss, {"w": jnp.ones((2, 2))}, np.ones((3, 2), np.float32))
    assert report.ok


def test_a_convention_at_a_kink_is_a_mismatch_that_rules_resolve():
    def torch_loss(params):
        return (params["w"].abs() * torch.arange(3)).sum()

    def jax_loss(params):
        return jnp.sum(jnp.abs(params["w"]) * jnp.arange(3))

    params = {"w": jnp.array([0.0, 0.0, 1.0])}
    report = fg.parity.compare(jax_loss, torch_loss, params)
    assert [row.verdict for row in report.rows()] == ["equal", "mismatch"]
    flat = fg.rules.default.override({jax.lax.abs_p: lambda ct, x: ct * jax.lax.sign(x)})
    assert fg.parity.compare(jax_loss, torch_loss, params, rules=flat).ok


def test_rules_of_whole_functions_hold_in_a_comparison():
    def torch_loss(params):
        return (params["w"].clamp(0, 1) * torch.arange(1, 4)).sum()

    def jax_loss(params):
        clipped = checkpoint_name(jnp.clip(params["w"], 0, 1), "clipped")
        return jnp.sum(clipped.astype(jnp.float32) * jnp.arange(1, 4))

    params = {"w": jnp.array([0.0, 0.5, 1.0])}
    assert not fg.parity.compare(jax_loss, torch_loss, params).ok
    assert fg.parity.compare(jax_loss, torch_loss, params, rules=fg.rules.torch).ok


def test_overflow_on_one_side_only_is_not_ok():
    params = {"w": jnp.full(4, 300.0, jnp.float16)}

    def torch_loss(params):
        return (params["w"] * 0.01 * params["w"]).sum()

    def careful(params):
        return jnp.sum(params["w"] * jnp.asarray(0.01, params["w"].dtype) * params["w"])

    def careless(params):
        return jnp.sum(params["w"] ** 2 * jnp.asarray(0.01, params["w"].dtype))

    assert fg.parity.compare(careful, torch_loss, params).loss.ok
    report = fg.parity.compare(careless, torch_loss, params)
    assert report.loss.verdict == "non-finite" and not report.ok
    assert "one side overflows where the other does not" in str(report)


def test_what_is_not_finite_in_float64_is_not_called_equal():
    def torch_loss(params):
        return params["w"].log().sum()

    params = {"w": jnp.array([-1.0, 1.0])}
    report = fg.parity.compare(lambda params: jnp.sum(jnp.log(params["w"])), torch_loss, params)
    assert report.loss.verdict == "non-finite" and not report.ok and report.first_value is None
    assert "fg.find_nonfinite" in str(report)


def test_parameters_that_neither_side_uses_are_noted():
    params = {"used": jnp.ones(2), "idle": jnp.ones(2)}
    report = fg.parity.compare(lambda p: jnp.sum(p["used"]), lambda p: p["used"].sum(), params)
    assert report.ok and "Used by neither side, so nothing is known of them: idle." in str(report)


# The report


def test_a_row_has_differences_in_three_units():
    a, b = np.float32(1.0), np.nextafter(np.float32(1.0), np.float32(2.0), dtype=np.float32)
    loss = fg.parity.compare(
        lambda p: p["w"] * 1.0,
        lambda p: p["w"] * torch.tensor(1 + float(b - a), dtype=p["w"].dtype),
        {"w": jnp.ones(())},
    ).loss
    assert (loss.ulps, loss.max_abs, loss.apart) == (1, float(b - a), float(b - a))
    assert loss.max_rel == pytest.approx(float(b - a))
    assert loss.verdict == "mismatch"


def test_a_report_is_data_that_json_takes(ports):
    data = json.loads(json.dumps(held(ports("mlp"), bug="transposed").to_dict()))
    assert data["ok"] is False and data["dtype"] == "float32"
    assert data["first_value"]["name"] == "2" and data["first_value"]["after"] == "1"
    assert [leaf["path"] for leaf in data["leaves"]][:2] == ["0.weight", "0.bias"]
    assert data["leaves"][0]["shape"] == [5, 6] and data["leaves"][0]["ok"] is False


def test_long_reports_show_first_what_is_wrong():
    params = {f"w{i}": jnp.ones(()) for i in range(60)}

    def jax_loss(params):
        return sum(p if name != "w59" else 2 * p for name, p in params.items())

    text = str(fg.parity.compare(jax_loss, lambda params: sum(params.values()), params))
    lines = text.splitlines()
    assert "w59" in "".join(lines[:8]) and "... and 21 more" in text
    assert max(map(len, lines)) < 120


# Arguments


def test_flat_names_nested_names_and_arrays_of_both_sides_will_do(ports):
    port = ports("mlp")
    x, y = port.batch
    torch_loss = fg.parity.module_loss(port.module, port.loss)
    flat = {name: p.detach() for name, p in port.module.named_parameters()}

    def jax_loss(params, x, y):
        layers = {}
        for name, p in params.items():
            layer, kind = name.split(".")
            layers.setdefault(layer, {})[kind] = p
        return port.jax_loss(layers, x, y)

    assert fg.parity.compare(jax_loss, torch_loss, flat, torch.tensor(x), jnp.asarray(y)).ok


def test_jaxs_layout_is_compared_with_torchs(ports):
    port = ports("mlp")

    def jax_loss(params, x, y):
        layers = [params[i] for i in sorted(params)]
        return fg.losses.mse(fg.nn.mlp(layers, x, partial(jax.nn.gelu, approximate=False)), y)

    torch_loss = fg.parity.module_loss(port.module, port.loss, layout="jax")
    report = fg.parity.compare(jax_loss, torch_loss, fg.parity.params_of(port.module, layout="jax"), *port.batch)
    assert report.ok and report.leaves[0].shape == (6, 5)


def errors(module=None, jax_loss=None, torch_loss=None, params=None, batch=None):
    module = module or nn.Linear(3, 2)
    x, y = batch or (np.ones((4, 3), np.float32), np.ones((4, 2), np.float32))
    default = lambda p, x, y: jnp.mean((linear(p, x) - y) ** 2)  # noqa: E731
    torch_loss = torch_loss or fg.parity.module_loss(module, F.mse_loss)
    params = fg.parity.params_of(module) if params is None else params
    fg.parity.compare(jax_loss or default, torch_loss, params, x, y)


def test_dropout_and_random_numbers_are_refused_on_both_sides():
    noisy = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    with pytest.raises(ValueError, match=r"torch_loss draws random numbers: 1 \(Dropout\) in training mode.*eval"):
        errors(noisy)
    recurrent = nn.LSTM(3, 2, num_layers=2, dropout=0.5)
    with pytest.raises(ValueError, match=r"LSTM in training mode"):
        errors(recurrent, torch_loss=fg.parity.module_loss(recurrent, lambda out, y: out[0].sum()))

    def jax_loss(params, x, y):
        return jnp.mean(jax.random.normal(jax.random.key(0), x.shape) * params["bias"][0])

    with pytest.raises(ValueError, match=r"jax_loss draws random numbers at .*test_comparison.py:\d+"):
        errors(jax_loss=jax_loss)
    with pytest.raises(TypeError, match="PRNG key"):
        errors(batch=(np.ones((4, 3), np.float32), jax.random.key(0)))


def test_random_numbers_are_drawn_from_a_state_that_is_put_back():
    module = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="random"):
        errors(module)
    assert torch.equal(before, torch.get_rng_state())


def test_training_mode_of_a_normalisation_is_named_and_its_buffers_are_left_alone():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = {name: x.clone() for name, x in module.state_dict().items()}

    def jax_loss(params, x, y):
        p = params["1"]
        return jnp.mean((linear(params["0"], x) / jnp.sqrt(1 + 1e-5) * p["weight"] + p["bias"] - y) ** 2)

    x, y = np.random.default_rng(0).normal(size=(4, 3)), np.ones((4, 2))
    torch_loss, params = fg.parity.module_loss(module, F.mse_loss), fg.parity.params_of(module)
    report = fg.parity.compare(jax_loss, torch_loss, params, x, y)
    assert not report.ok and "In training mode" in str(report)
    assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())
    module.eval()
    assert fg.parity.compare(jax_loss, torch_loss, params, x, y).ok


def test_parameters_must_be_the_modules():
    params = fg.parity.params_of(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="params misses bias"):
        errors(params={"weight": params["weight"]})
    with pytest.raises(ValueError, match="has scale, which the module does not"):
        errors(params={**params, "scale": jnp.ones(2)})
    with pytest.raises(TypeError, match=r"params\['bias'\] is int32"):
        errors(params={**params, "bias": jnp.ones(2, jnp.int32)})
    with pytest.raises(ValueError, match=r"'weight' has shape \(3, 2\).*layout='torch'"):
        errors(params={**params, "weight": params["weight"].T})
    with pytest.raises(ValueError, match="params is empty"):
        errors(params={})


def test_buffers_and_shared_parameters_are_refused_with_the_reason():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    state = {name: x for name, x in module.state_dict().items() if x.is_floating_point()}
    with pytest.raises(ValueError, match=r"params has buffers.*1\.running_mean, 1\.running_var"):
        errors(module, params=fg.parity.from_state_dict(state))

    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    params = fg.parity.params_of(tied)
    assert set(params["1"]) == {"bias"}
    twice = {"0": params["0"], "1": params["0"]}
    with pytest.raises(ValueError, match=r"'1\.weight' and '0\.weight' are one shared parameter"):
        errors(tied, params=twice)

    def jax_loss(params, x, y):
        hidden = linear(params["0"], x)
        return jnp.mean((hidden @ params["0"]["weight"].T + params["1"]["bias"] - y) ** 2)

    x = np.ones((2, 3), np.float32)
    assert fg.parity.compare(jax_loss, fg.parity.module_loss(tied, F.mse_loss), params, x, x).ok


def test_losses_must_be_scalar_functions_of_the_parameters():
    module = nn.Linear(3, 2)
    with pytest.raises(TypeError, match="scalar"):
        errors(jax_loss=lambda p, x, y: linear(p, x))
    with pytest.raises(TypeError, match=r"scalar tensor, but its result has shape \(4, 2\)"):
        errors(torch_loss=lambda p, x, y: F.linear(x, p["weight"], p["bias"]))
    with pytest.raises(ValueError, match="torch_loss does not depend on params"):
        errors(torch_loss=lambda p, x, y: F.mse_loss(module(x), y))
    with pytest.raises(ValueError, match="torch_loss does not depend on params"):
        errors(torch_loss=lambda p, x, y: F.mse_loss(x, x))


def test_an_error_says_which_run_raised_it():
    with pytest.raises(RuntimeError) as caught:
        errors(params=in_dtype(fg.parity.params_of(nn.Linear(3, 2)), jnp.bfloat16))
    assert any("torch may not mix" in note for note in caught.value.__notes__)

    def only_float32(p, x, y):
        if x.dtype == jnp.float64:
            raise RuntimeError("no")
        return jnp.mean(linear(p, x))

    with pytest.raises(RuntimeError) as caught:
        errors(jax_loss=only_float32)
    assert any("the jax side's run in float64" in note for note in caught.value.__notes__)

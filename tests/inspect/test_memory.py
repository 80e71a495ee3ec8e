"""memory: where the memory of a gradient goes, told from its program."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import funcgrad as fg
from benchmarks.workloads.large import programs
from funcgrad.inspect.memory_report import Wanted

WIDTH, ROWS = 64, 1024


def model(params, x):
    for i, w in enumerate(params):
        with jax.named_scope(f"layer{i}"):
            x = jnp.sin(x @ w)
    return jnp.mean(x**2)


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, np.float32)


PARAMS = [struct(WIDTH, WIDTH)] * 4
X = struct(ROWS, WIDTH)


def temporary(f, *args):
    return jax.jit(fg.grad(f)).lower(*args).compile().memory_analysis().temp_size_in_bytes


def test_each_value_has_its_line_module_bytes_and_the_rules_that_want_it():
    report = fg.memory(model)(PARAMS, X)
    before = [kept for kept in report.kept if kept.primitive == "dot_general"]
    assert [kept.module for kept in before] == [f"layer{i}" for i in range(4)]
    for kept in before:
        assert kept.type == f"f32[{ROWS},{WIDTH}]" and kept.bytes == 4 * ROWS * WIDTH
        assert Wanted("sin", "x") in kept.wanted
        assert kept.place.function == "model" and kept.place.file == __file__
    assert report.kept_bytes == sum(kept.bytes for kept in report.kept)
    assert report.parameters == report.gradients == 4 * 4 * WIDTH**2
    assert report.others == 4 * ROWS * WIDTH and report.results == 4 and report.optimizer is None


def test_what_it_takes_to_compute_a_value_again_starts_from_what_else_is_kept():
    report = fg.memory(model)(PARAMS, X)
    product = 2 * ROWS * WIDTH * WIDTH
    again = sorted(kept.again for kept in report.kept if kept.primitive == "dot_general")
    # The sine of the value before is no value in memory, as XLA computes it inside of the product.
    assert again[0] == product and all(product <= n <= product + ROWS * WIDTH for n in again)


def scanned(params, x):
    def layer(x, w):
        x = jnp.tanh(x @ w)
        return x * jax.nn.sigmoid(x), None

    return jnp.mean(lax.scan(layer, x, params)[0] ** 2)


@pytest.mark.parametrize(
    ("name", "layers"), [("GPT-2", 4), ("GPT-2, scanned", 12), ("ResNet", None), ("U-Net", None), ("LSTM", None)]
)
def test_what_is_foretold_is_what_xla_takes(name, layers):
    f, args = programs(layers or 1)[name]
    report = fg.memory(f)(*args)
    assert report.peak.bytes == pytest.approx(temporary(f, *args), rel=0.1)
    assert report.peak.kept <= report.kept_bytes


def test_the_values_of_a_loop_are_those_of_its_steps():
    report = fg.memory(scanned)(struct(32, WIDTH, WIDTH), struct(256, WIDTH))
    largest = report.kept[0]
    assert largest.type == f"f32[32,256,{WIDTH}]" and largest.place.function == "scanned.<locals>.layer"
    assert {str(wanted) for kept in report.kept for wanted in kept.wanted} >= {"tanh: out", "dot_general: x"}


def test_the_line_of_a_library_function_is_the_line_that_calls_it():
    report = fg.memory(lambda x: jnp.sum(jax.nn.softmax(jnp.sin(x)) ** 2))(struct(64, 64))
    assert {kept.place.file for kept in report.kept} == {__file__}


def test_the_peak_says_when():
    peak = fg.memory(model)(PARAMS, X).peak
    assert peak.way == "back" and 0 < peak.part < 0.5 and peak.place.function == "model"


def test_an_optimizers_state_is_counted_and_arguments_may_be_arrays():
    params = [jnp.ones((WIDTH, WIDTH))] * 4
    # The same array several times: these are several arguments.
    report = fg.memory(model, optimizer=optax.adam(1e-3))(params, jnp.ones((ROWS, WIDTH)))
    assert report.optimizer == 2 * report.parameters + 4
    assert report.kept_bytes == fg.memory(model)(PARAMS, X).kept_bytes


def test_an_array_that_is_two_arguments_is_differentiated_as_the_one_that_is_named():
    x = jnp.ones((ROWS, WIDTH))
    report = fg.memory(lambda x, y: jnp.sum(jnp.sin(jnp.exp(x)) * jnp.cos(y)))(x, x)
    assert report.parameters == report.others == x.nbytes


def test_only_what_is_differentiated_keeps_anything():
    kept = fg.memory(model)(PARAMS, X).kept_bytes
    assert fg.memory(model, argnums=(0, 1))(PARAMS, X).kept_bytes == kept
    # Its last value needs no weights' cotangents, so no layer's input.
    assert fg.memory(model, argnums=1)(PARAMS, X).kept_bytes < kept + 1
    with_aux = fg.memory(lambda params, x: (model(params, x), x), has_aux=True)(PARAMS, X)
    assert with_aux.kept_bytes == kept


def test_the_rules_are_those_of_the_table_and_keyword_arguments_go_through():
    def f(x, *, scale):
        return jnp.sum(jnp.sin(x) * scale)

    kept = [str(wanted) for each in fg.memory(f)(X, scale=2.0).kept for wanted in each.wanted]
    table = fg.rules.default.override({lax.sin_p: fg.rules.formula(lambda ct: ct)})
    other = fg.memory(lambda x: f(jnp.exp(x), scale=2.0), rules=table)(X)
    assert kept == [] or kept == ["sin: x"]
    assert [str(wanted) for each in other.kept for wanted in each.wanted] == ["exp: out"]


def test_budgets_are_on_the_curve():
    report = fg.memory(model, budgets=(0.5, "1 KiB", 10**9))(PARAMS * 6, X)
    half, little, much = report.budgets
    assert half.held <= half.bytes and half.flops > 1 and (half.held, half.flops) in report.curve
    assert little.held is None and little.flops is None
    assert (much.held, much.flops) == report.curve[0]
    held, work = zip(*report.curve, strict=True)
    assert list(held) == sorted(held, reverse=True) and list(work) == sorted(work)


def test_what_cannot_be_told_is_refused_as_grad_does():
    with pytest.raises(TypeError, match="real- or complex-valued"):
        fg.memory(lambda x: x * 1.0)(np.arange(3))
    with pytest.raises(TypeError, match="real- or complex-valued"):
        fg.memory(lambda x: x * 1.0)(jax.ShapeDtypeStruct((3,), np.int32))
    with pytest.raises(TypeError, match="positional arguments"):
        fg.memory(model, argnums=2)(PARAMS, X)
    with pytest.raises(ValueError, match="no amount of memory"):
        fg.memory(model, budgets=("much",))


def test_nothing_is_kept_of_a_linear_function():
    report = fg.memory(lambda x: 2.0 * jnp.sum(x))(X)
    assert report.kept == [] and report.kept_bytes == 0
    assert "0 values kept" in str(report)


def test_the_report_reads(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    report = fg.memory(model)(PARAMS, X)
    text = str(report)
    first, second, third, *_ = text.splitlines()
    assert re.fullmatch(r"Memory of the gradient of model: [\d.]+ MiB at its peak", first)
    assert second.startswith("parameters 64 KiB, gradients 64 KiB, other arguments 256 KiB, results 4 B; besides these")
    assert re.search(r"way back at test_memory.py:\d+ \(\w+\), \d+% through", third)
    assert "x = jnp.sin(x @ w)" in text and "memory=0.5" in text and "sin: x" in text
    assert max(map(len, text.splitlines())) <= 120
    html = report._repr_html_()
    assert html.count("<table>") == 2 and "jnp.sin(x @ w)" in html


def test_the_report_is_data():
    report = fg.memory(model)(PARAMS, X)
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["kept_bytes"] == report.kept_bytes and len(data["kept"]) == len(report.kept)
    assert sum(line["bytes"] for line in data["lines"]) == report.kept_bytes
    assert data["peak"]["bytes"] == report.peak.bytes and data["curve"] == [list(point) for point in report.curve]


def test_the_report_is_drawn():
    figure = fg.memory(model)(PARAMS, X).plot()
    lines, curve = figure.axes
    assert len(lines.patches) == len({(k.place.file, k.place.line) for k in fg.memory(model)(PARAMS, X).kept})
    assert len(curve.lines) == 1 + 2

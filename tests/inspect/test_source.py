"""Forward and backward passes as Python source."""

from __future__ import annotations

import ast
import re
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import funcgrad as fg
from benchmarks.workloads import registry
from funcgrad.__main__ import example
from tests.agreement import assert_same, quick_jit, squares
from tests.rules.examples import examples as primitive_examples

ROOT = Path(__file__).resolve().parents[2]


def run(source: str) -> Any:
    """The function that a source defines."""
    namespace: dict[str, Any] = {}
    exec(compile(source, "<generated>", "exec"), namespace)
    return namespace["value_and_grad"]


def strong(tree):
    """Arrays of types that are not weak: a source does not keep which are."""
    return jax.tree.map(lambda x: lax.convert_element_type(x, jnp.result_type(x)), tree)


def assert_gives(source: str, fun, *args, argnums=0, tolerance=1e-6, **options):
    """``source`` gives the value and the gradient that funcgrad does."""
    reference = fg.value_and_grad(fun, argnums, **options)
    generated = run(source)

    def both(*arrays: Any) -> Any:
        rest = iter(arrays)
        given = [x if isinstance(x, bool | str) else next(rest) for x in args]
        return strong(generated(*given)), strong(reference(*given))

    got, expected = quick_jit(both)(*(x for x in args if not isinstance(x, bool | str)))
    assert_same(jax.device_get(got), jax.device_get(expected), tolerance)


def check(fun, *args, argnums=0, tolerance=1e-6, **options) -> str:
    """The source of ``fun``, which was seen to be right and tidy."""
    source = fg.backward_source(fun, argnums, **options)(*args)
    assert_tidy(source)
    assert_gives(source, fun, *args, argnums=argnums, tolerance=tolerance, **options)
    return source


def assert_tidy(source: str) -> None:
    tree = ast.parse(source)
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert {name.partition(".")[0] for name in modules} <= {"jax", "numpy", "base64", "zlib"}
    assert max(map(len, source.splitlines())) <= 100
    assert not re.search(r" $", source, re.MULTILINE)
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        assert unused(function) == set(), function.name


def unused(function: ast.FunctionDef) -> set[str]:
    """The names that a function assigns and nothing in it uses."""
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    loaded = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    return {node.id for node in names if isinstance(node.ctx, ast.Store)} - loaded - {"_"}


def body_of(source: str, name: str = "value_and_grad") -> list[str]:
    """The statements of a function in a source, without comments and docstring."""
    found = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == name]
    return [ast.unparse(x) for x in found[0].body if not isinstance(x, ast.Expr)]


def code_of(source: str) -> str:
    """A source without its comments."""
    return "\n".join(line for line in source.splitlines() if not line.strip().startswith("#"))


def comments_of(source: str) -> list[str]:
    return [line.strip().removeprefix("# ") for line in source.splitlines() if line.strip().startswith("#")]


# Everything there is


@pytest.mark.parametrize("name", registry)
def test_source_of_a_workload_is_tidy_and_right(name):
    workload = registry[name]
    loss = partial(workload.loss, grad=fg.grad) if workload.nested else workload.loss
    check(loss, *workload.example(workload.tiny), tolerance=1e-5)


def line_fit():
    module = example("line_fit")
    return module.loss, (*module.START, *module.noisy_line(jax.random.key(0))), (0, 1)


def diabetes():
    module = example("diabetes")
    data = module.load()
    return module.loss, (module.init(jax.random.key(0)), data.x_train, data.y_train), 0


def ported_mlp():
    module = example("ported_mlp")
    return module.loss, (fg.parity.params_of(module.original(), layout="jax"), *module.batches()[0]), 0


def quantized_mlp():
    module = example("quantized_mlp")
    data = module.load()
    params = fg.nn.init_mlp(jax.random.key(0), module.SIZES)
    return module.loss, (params, data.x_train, data.y_train, True), 0


def saliency():
    module = example("saliency")
    images, digits = module.load()[:2]
    return module.loss, (module.init(jax.random.key(0)), images[:8], digits[:8]), 0


#: The loss of each example script, its arguments, and which it is differentiated by.
SCRIPTS = {
    "line_fit": line_fit,
    "diabetes": diabetes,
    "ported_mlp": ported_mlp,
    "quantized_mlp": quantized_mlp,
    "saliency": saliency,
}


def test_every_example_script_is_tried():
    assert set(SCRIPTS) == {path.stem for path in (ROOT / "examples").glob("*.py")}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.torch if name == "ported_mlp" else ()) for name in SCRIPTS]
)
def test_source_of_an_example_is_tidy_and_right(name):
    loss, args, argnums = SCRIPTS[name]()
    check(loss, *args, argnums=argnums)


@pytest.mark.parametrize("case", [e for e in primitive_examples if e.runs], ids=str)
def test_every_primitive_can_be_written_down(case):
    with jax.enable_x64(True):
        check(lambda *args: squares(case.function(*args)), *case.args, argnums=case.active, tolerance=1e-12)


SQUARE = jnp.eye(3) * 2 + 0.1
MIXED = {
    "a solve, which each platform does in its own way": (
        lambda a: jnp.sum(jnp.linalg.solve(a, jnp.ones(3)) ** 2),
        SQUARE,
    ),
    "random numbers": (lambda x: jnp.sum(jax.random.gumbel(jax.random.key(1), (3,)) * x), jnp.ones(3)),
    "complex numbers": (lambda z: jnp.abs(jnp.sum(z * z)), jnp.array([1 + 2j, 2 - 1j])),
    "a batched loop": (
        lambda x: jnp.sum(jax.vmap(lambda z: lax.while_loop(lambda s: s < 10, lambda s: s * z, z))(x)),
        jnp.array([2.0, 3.0]),
    ),
    "a narrow type": (lambda x: jnp.mean(x.astype(jnp.bfloat16)).astype(jnp.float32), jnp.ones((4, 3))),
    "a gradient inside": (lambda x: jnp.sum(fg.grad(lambda z: jnp.sum(jnp.sin(z) ** 2))(x) ** 2), jnp.arange(3.0)),
    "an element at a place": (lambda x: jnp.sum(x.at[3].mul(2.0)[::2]) + x[lax.add(1, 1)] ** 2, jnp.arange(5.0)),
}


@pytest.mark.parametrize("name", MIXED)
def test_programs_of_all_kinds_are_written_down(name):
    check(*MIXED[name], tolerance=1e-5)


def test_an_argument_called_like_a_module_gets_another_name():
    def loss(lax):
        return jnp.sum(jnp.sin(lax))

    assert "def value_and_grad(lax_):" in check(loss, jnp.ones(2))


def test_readme_shows_what_is_generated():
    loss, args, argnums = line_fit()
    assert f"```python\n{fg.backward_source(loss, argnums)(*args)}```" in (ROOT / "README.md").read_text()


# Reading it


def test_values_have_the_names_of_the_users_lines_and_cotangents_are_named_after_them():
    def loss(params, x):
        h = jnp.tanh(x @ params["w"] + params["b"])
        scale = jnp.sum(h**2)
        return scale * jnp.sum(h)

    source = check(loss, {"w": jnp.ones((3, 2)) / 3, "b": jnp.ones(2)}, jnp.ones((4, 3)))
    body = body_of(source)
    assert body[:3] == ["b, w = (params['b'], params['w'])", "h = jnp.tanh(x @ w + b)", "scale = jnp.sum(h ** 2)"]
    assert any(line.startswith("ct_h = ") for line in body)
    assert body[-1] == "return (value, {'b': ct_b, 'w': ct_w})"


def test_a_line_is_a_comment_before_what_comes_of_it_on_either_way():
    def loss(x):
        y = jnp.sin(x)
        return jnp.sum(y * x)

    comments = comments_of(check(loss, jnp.arange(3.0)))
    assert comments == [
        "y = jnp.sin(x)",
        "return jnp.sum(y * x)",
        "The way back.",
        "return jnp.sum(y * x)",
        "y = jnp.sin(x)",
    ] or comments == ["y = jnp.sin(x)", "return jnp.sum(y * x)", "The way back.", "y = jnp.sin(x)"]


def test_checkpoint_names_are_used():
    source = check(lambda x: jnp.sum(jnp.exp(checkpoint_name(jnp.sin(x) * x, "energy")) ** 2), jnp.arange(3.0))
    assert "energy = sine_x * x" in source
    assert "ct_energy = " in source


def test_a_name_assigned_twice_gets_a_number():
    def loss(x):
        x = jnp.sin(x)
        x = jnp.exp(x)
        return jnp.sum(x)

    body = body_of(check(loss, jnp.arange(3.0)))
    assert body[:3] == ["x_2 = jnp.sin(x)", "x_3 = jnp.exp(x_2)", "value = jnp.sum(x_3)"]


def test_leaves_of_the_same_name_are_told_apart_by_what_leads_to_them():
    params = [{"a": {"w": 1.0}, "b": {"w": 2.0}}, {"a": {"w": 3.0}, "b": {"w": 4.0}}]
    source = check(lambda params: params[0]["a"]["w"] * params[0]["b"]["w"] * params[1]["a"]["w"], params)
    for name in ("a_w_0", "b_w_0", "a_w_1"):
        assert f"{name} = params" in source
    assert '"w": jnp.zeros(())' in source or "jnp.float32(0.0)" in source


def test_products_are_written_with_an_operator_whatever_is_contracted():
    x, y = jnp.ones((2, 3)), jnp.ones((3, 4))
    body = " ".join(body_of(check(lambda x, y: jnp.sum((x @ y) ** 2), x, y, argnums=(0, 1))))
    assert "x @ y" in body and "@ y.T" in body and "x.T @" in body
    xs = jnp.arange(2.0)[:, None, None]
    batch = " ".join(body_of(check(lambda x, y: jnp.sum((x @ y) ** 2), x[None] + xs, y[None] + xs, argnums=(0, 1))))
    assert "x @ y" in batch and "@ y.mT" in batch
    other = check(lambda x, y: jnp.sum(jnp.einsum("abc,dcb->ad", x, y) ** 2), jnp.ones((2, 3, 4)), jnp.ones((5, 4, 3)))
    assert 'jnp.einsum("bij,kji->bk", x, y)' in other


def test_what_changes_nothing_is_left_out():
    def loss(x):
        y = lax.reshape(x * 1.0 + 0.0, (3,)).astype(jnp.float32)
        return jnp.sum(jnp.where(True, y, -y) / 1.0)

    assert body_of(check(loss, jnp.arange(3.0)))[0] == "value = jnp.sum(x)"


def test_equal_values_are_computed_once():
    source = check(lambda x: jnp.sum(jnp.exp(x) + jnp.exp(x) * jnp.exp(x)), jnp.arange(3.0))
    assert code_of(source).count("jnp.exp(") == 1


def test_broadcasting_is_left_to_the_operators():
    source = check(lambda x, y: jnp.sum((x + y[:, None]) * 2.0), jnp.ones((3, 4)), jnp.ones(3), argnums=(0, 1))
    assert "x + y[:, None]" in source and "broadcast" not in source.partition("way back")[0]


def test_rows_are_taken_and_put_back_by_their_index():
    source = check(lambda table, i: jnp.sum(jnp.sin(table[i])), jnp.ones((5, 2)), jnp.array([0, -1, 0]))
    assert "table[i]" in source and "jnp.zeros((5, 2)).at[i].add(" in source


# Loops, branches, calls


def test_a_scan_has_a_named_body_on_either_way_that_carries_the_users_names():
    def loss(w, xs):
        def cell(carry, x):
            h, c = carry
            c = jnp.tanh(h @ w) + c
            h = jnp.sin(c) * x
            return (h, c), h

        (_, c), hs = lax.scan(cell, (jnp.zeros(2), jnp.ones(2)), xs)
        return jnp.sum(hs) + jnp.sum(c)

    source = check(loss, jnp.ones((2, 2)), jnp.arange(3.0))
    assert "    def cell(carry, x):\n        h, c = carry\n" in source
    assert "    def cell_backward(carry, inputs):\n        ct_w, ct_h, ct_c = carry\n" in source
    assert "reverse=True" in source


def test_a_while_loop_is_two_functions_and_a_call():
    def loss(x):
        return lax.while_loop(lambda s: s < 10, lambda s: s * s, x)

    source = check(loss, 2.0)
    assert re.search(r"lax\.while_loop\(\s*proceeds,", source) and "def proceeds(" in source


def test_a_condition_is_the_predicate_and_a_function_for_each_branch():
    def loss(flag, x):
        def double(x):
            return 2 * x

        def cube(x):
            return x**3

        return lax.cond(flag, double, cube, x)

    source = check(loss, True, 2.0, argnums=1)
    assert "lax.cond(flag, double, cube)" in source
    assert "lax.cond(flag, double_backward, cube_backward)" in source
    assert "    def cube():\n        return x**3\n" in source


def test_a_switch_is_a_list_of_functions():
    source = check(lambda i, x: lax.switch(i, [jnp.sin, jnp.cos, jnp.tanh], x), 2, 0.5, argnums=1)
    assert "lax.switch(i, [" in source or "lax.switch(" in source


@jax.jit
def layer(w, b, x):
    h = jnp.tanh(x @ w + b)
    h = h * jax.nn.sigmoid(h) + x
    return (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)


def deep(params, x):
    for w, b in params:
        x = layer(w, b, x)
    return jnp.sum(x * x)


def deep_example(depth: int):
    keys = jax.random.split(jax.random.key(0), depth)
    return [(jax.random.normal(key, (3, 3)), jnp.ones(3)) for key in keys], jnp.linspace(-1, 1, 6).reshape(2, 3)


def test_a_function_called_many_times_is_written_once():
    source = check(deep, *deep_example(4), tolerance=1e-5)
    assert source.count("\ndef layer(") == 1 and source.count("\ndef layer_backward(") == 1
    # The first layer's input has no gradient, so its halves are others and stand where they are used.
    assert code_of(source).count("= layer(") == 3 and code_of(source).count("= layer_backward(") == 3
    assert "residuals" in source
    more = check(deep, *deep_example(6), tolerance=1e-5)
    assert len(more.splitlines()) - len(source.splitlines()) <= 12


def unrolled(params, x):
    for layer in params["layers"]:
        h = jnp.tanh(x @ layer["in"]["w"] + layer["in"]["b"])
        gate = jax.nn.sigmoid(h) * jnp.cos(h)
        x = x + (h * gate) @ layer["out"]
    return jnp.mean(x**2)


def test_layers_of_an_unrolled_network_become_calls_of_one_function_that_pass_their_containers():
    def example(depth):
        layer = {"in": {"w": jnp.eye(3), "b": jnp.ones(3)}, "out": jnp.ones((3, 3)) / 3}
        return {"layers": [layer] * depth, "start": jnp.ones(())}, jnp.linspace(-1, 1, 6).reshape(2, 3)

    source = check(unrolled, *example(4), tolerance=1e-5)
    code = code_of(source)
    assert code.count("\ndef ") == 3
    # The first layer's input has no gradient, so its way back is another and takes the residuals apart.
    assert "x_2, (h, " in code and ') = block(x, params["layers"][0])' in code
    assert 'x_3, residuals = block(x_2, params["layers"][1])' in code
    assert re.search(r'ct_layer_1, \w+ = block_backward\(\w+, params\["layers"\]\[1\], residuals, x_2\)', code)
    more = check(unrolled, *example(6), tolerance=1e-5)
    assert len(more.splitlines()) - len(source.splitlines()) <= 8


def test_a_function_called_once_is_written_in_place():
    source = check(deep, *deep_example(1), tolerance=1e-5)
    assert "def layer" not in source and "x @ w" in source


def test_what_is_checkpointed_is_computed_again():
    block = jax.checkpoint(lambda w, x: jnp.sin(jnp.sin(x @ w)))
    source = check(lambda w, x: jnp.sum(block(w, x)), jnp.ones((2, 2)), jnp.ones(2))
    forward, _, back = source.partition("# The way back.")
    assert "optimization_barrier" in back and "jnp.sin(" in back and "jnp.sin(" in forward


# Arguments and results


def test_keyword_arguments_stay_keywords():
    def loss(x, *, scale):
        return jnp.sum(x) * scale

    source = fg.backward_source(loss)(jnp.ones(2), scale=3.0)
    assert "def value_and_grad(x, *, scale):" in source
    assert run(source)(jnp.ones(2), scale=2.0)[0] == 4


def test_arguments_that_are_no_arrays_are_held_fixed():
    def loss(x, kind):
        return jnp.sum(jnp.sin(x) if kind == "sine" else x)

    source = fg.backward_source(loss)(jnp.ones(2), "sine")
    value, _ = run(source)(jnp.ones(2), "sine")
    np.testing.assert_allclose(value, 2 * np.sin(1.0), rtol=1e-6)


def test_auxiliary_outputs_come_along():
    def loss(x):
        return jnp.sum(x**2), {"twice": 2 * x, "one": 1.0}

    check(loss, jnp.arange(3.0), has_aux=True)


class Point(NamedTuple):
    x: Any
    y: Any


def test_gradients_have_the_structure_of_any_tree():
    for params in (Point(1.0, 2.0), OrderedDict(b=1.0, a=2.0), (1.0, [2.0, {"c": 3.0}]), {"n": None, "a": (1.0,)}):
        check(lambda params: sum(jax.tree.leaves(params)) ** 2, params)


def test_another_rule_table_is_written_as_it_is():
    through = fg.rules.default.override({lax.round_p: lambda ct: ct})
    source = check(lambda x: jnp.sum(jnp.round(x) ** 2), jnp.array([0.3, 1.6]), rules=through)
    assert "ct_x = " in source


def test_it_takes_numpy_arrays_and_python_numbers():
    source = fg.backward_source(lambda w, x: jnp.sum(w * x))(2.0, np.ones(3))
    value, ct = run(source)(3.0, np.ones(3))
    assert value == 9 and ct == 3


# Constants


def test_small_constants_are_spelled_and_large_ones_packed():
    small, large = np.array([1.5, -2.0], np.float32), np.random.default_rng(0).normal(size=300).astype(np.float32)
    assert "jnp.array([1.5, -2.0], jnp.float32)" in check(lambda x: jnp.sum(x * small), jnp.ones(2))
    source = check(lambda x: jnp.sum(x * large), jnp.ones(300))
    assert "zlib.decompress" in source


def test_a_huge_constant_is_refused_with_advice():
    huge = np.random.default_rng(0).normal(size=2**19)
    with pytest.raises(ValueError, match=r"Pass it as an argument"):
        fg.backward_source(lambda x: jnp.sum(x * huge))(1.0)


def test_random_keys_can_be_constants():
    key = jax.random.key(3)
    check(lambda x: x * jax.random.normal(key), 2.0)


def test_a_call_back_into_python_is_refused():
    def loss(x):
        return x * jax.pure_callback(lambda y: y, jax.ShapeDtypeStruct((), jnp.float32), 2.0)

    with pytest.raises(NotImplementedError, match="pure_callback"):
        fg.backward_source(loss)(1.0)


def test_prints_are_left_out():
    def loss(x):
        jax.debug.print("x = {}", x)
        return x * x

    assert "debug" not in check(loss, 2.0).partition("@jax.jit")[2].replace("jax.debug.print(", "", 1)


def test_it_raises_what_value_and_grad_does():
    with pytest.raises(TypeError, match="scalar-output"):
        fg.backward_source(lambda x: x)(jnp.ones(2))


def test_the_source_depends_on_the_program_alone():
    loss, args, argnums = line_fit()
    first = fg.backward_source(loss, argnums)(*args)
    assert fg.backward_source(loss, argnums)(*args) == first

"""vjp, grad, value_and_grad, jacrev, hessian and hvp: what goes in, what comes out, and what is refused."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import get_opaque_trace_state

import funcgrad as fg
from tests.agreement import assert_same

V = np.array([0.5, -1.5, 2.0], np.float32)


def energy(x, y, z):
    return jnp.sum(jnp.sin(x) * y) + z**2 * jnp.sum(x)


ARGUMENTS = (V, V + 1, np.float32(3.0))


# Which arguments.


@pytest.mark.parametrize("argnums", [0, 2, -1, (0,), (2, 0), (0, -1), [1, 2]])
def test_argnums_choose_the_arguments(argnums):
    for name in ("grad", "value_and_grad", "jacrev"):
        mine, theirs = (getattr(m, name)(energy, argnums=argnums) for m in (fg, jax))
        assert_same(mine(*ARGUMENTS), theirs(*ARGUMENTS), 1e-6)


def test_argnums_may_be_an_integer_of_numpy():
    for name in ("grad", "value_and_grad", "jacrev"):
        transform = getattr(fg, name)
        assert_same(transform(energy, np.int64(1))(*ARGUMENTS), transform(energy, 1)(*ARGUMENTS))


def test_the_other_arguments_may_be_anything():
    def f(mode, x, options):
        return jnp.sum(x) * options["scale"] if mode == "sum" else jnp.max(x)

    assert fg.grad(f, argnums=1)("sum", V, {"scale": 2.0}).tolist() == [2, 2, 2]
    assert fg.grad(f, argnums=1)("max", V, None).tolist() == [0, 0, 1]


def test_keyword_arguments_are_passed_on_and_not_differentiated():
    def f(x, *, power, shift=0.0):
        return jnp.sum((x + shift) ** power)

    assert_same(fg.grad(f)(V, power=3), jax.grad(f)(V, power=3))
    assert_same(fg.value_and_grad(f)(V, power=2, shift=1.0), jax.value_and_grad(f)(V, power=2, shift=1.0))
    assert_same(fg.hessian(f)(V, power=3), jax.hessian(f)(V, power=3), 1e-6)


def test_a_transform_keeps_the_name_of_the_function_and_says_what_it_is():
    for transform in (fg.grad, fg.value_and_grad, fg.jacrev):
        assert "energy" in transform(energy).__name__
        assert "energy" in transform(energy).__doc__


# Trees.


class Layer(NamedTuple):
    weights: jax.Array
    bias: jax.Array | None


@jax.tree_util.register_pytree_node_class
class Scaled:
    """A node with static data of its own."""

    def __init__(self, value, factor):
        self.value, self.factor = value, factor

    def tree_flatten(self):
        return (self.value,), self.factor

    @classmethod
    def tree_unflatten(cls, factor, children):
        return cls(*children, factor)


TREES = {
    "dict": {"b": V, "a": (V, [np.float32(2.0)])},
    "namedtuple with a hole": [Layer(V, None), Layer(2 * V, V)],
    "custom node": Scaled({"x": V}, 3),
    "empty": {},
    "Python floats": (1.0, {"x": 2.0}),
}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES.keys())
def test_gradients_have_the_tree_of_the_argument(tree):
    def f(tree):
        return sum((jnp.sum(x**3) for x in jax.tree.leaves(tree)), start=jnp.zeros(()))

    assert_same(fg.value_and_grad(f)(tree), jax.value_and_grad(f)(tree), 1e-6)
    if jax.tree.leaves(tree):
        assert_same(fg.jacrev(f)(tree), jax.jacrev(f)(tree), 1e-6)


def test_vjp_takes_and_returns_trees():
    def f(a, b):
        return {"out": [a["x"] * b[0], jnp.sum(b[1])], "none": None}

    primals = ({"x": V}, (V + 1, V))
    ct = {"out": [V, np.float32(2.0)], "none": None}
    (mine, pullback), (theirs, expected) = fg.vjp(f, *primals), jax.vjp(f, *primals)
    assert_same(mine, theirs)
    assert_same(pullback(ct), expected(ct))


def test_an_output_may_be_an_input_a_constant_or_the_same_value_twice():
    def f(x, y):
        return x, 3.0, V, (x * y, x * y), y

    out, pullback = fg.vjp(f, V, V + 1)
    expected_out, expected = jax.vjp(f, V, V + 1)
    ct = (V, np.float32(1.0), V, (V, 2 * V), V)
    assert_same(jax.tree.map(jnp.asarray, out), jax.tree.map(jnp.asarray, expected_out))
    assert_same(pullback(ct), expected(ct))


def test_a_function_of_no_arguments_has_a_pullback():
    out, pullback = fg.vjp(lambda: jnp.sum(V))
    assert float(out) == 1.0 and pullback(1.0) == ()


# Auxiliary output.


def with_aux(x):
    return jnp.sum(x**2), {"twice": 2 * x, "constant": 7, "untouched": V}


def test_aux_comes_back_with_values():
    for name in ("grad", "value_and_grad", "jacrev"):
        mine, theirs = (getattr(m, name)(with_aux, has_aux=True)(V) for m in (fg, jax))
        assert_same(jax.tree.map(jnp.asarray, mine), jax.tree.map(jnp.asarray, theirs))
    out, pullback, aux = fg.vjp(with_aux, V, has_aux=True)
    assert float(out) == 6.5 and pullback(1.0)[0].tolist() == [1, -3, 4] and aux["twice"].tolist() == [1, -3, 4]


@jax.tree_util.register_pytree_node_class
class Rebuilt:
    """Remembers whether it was put together under differentiation."""

    def __init__(self, x):
        self.x, self.place = x, get_opaque_trace_state()

    def tree_flatten(self):
        return (self.x,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def test_aux_is_put_together_outside_of_the_function():
    here = get_opaque_trace_state()
    for transform in (fg.grad, fg.value_and_grad, fg.jacrev):
        aux = transform(lambda x: (jnp.sum(x), Rebuilt(2 * x)), has_aux=True)(V)
        aux = aux[0][1] if transform is fg.value_and_grad else aux[1]
        assert aux.place == here and aux.x.tolist() == (2 * V).tolist()
    out, _, aux = fg.vjp(lambda x: (Rebuilt(x), Rebuilt(2 * x)), V, has_aux=True)
    assert out.place == here and aux.place == here


def test_aux_of_a_hessian_comes_back_with_values():
    assert_same(
        jax.tree.map(jnp.asarray, fg.hessian(with_aux, has_aux=True)(V)),
        jax.tree.map(jnp.asarray, jax.hessian(with_aux, has_aux=True)(V)),
    )


def test_aux_belongs_to_an_outer_gradient():
    def outer(grad):
        def f(x):
            gradient, aux = grad(lambda x: (jnp.sum(x**3), x**2), has_aux=True)(x)
            return jnp.sum(gradient * aux)

        return grad(f)(V)

    assert_same(outer(fg.grad), outer(jax.grad), 1e-6)


def test_nothing_is_differentiated_that_only_aux_depends_on():
    visited = []

    @jax.custom_vjp
    def f(x):
        return x

    f.defvjp(lambda x: (x, None), lambda _, ct: (visited.append(ct), (ct,))[1])
    fg.grad(lambda x: (jnp.sum(x), f(x)), has_aux=True)(V)
    assert not visited


# Types.


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jitted"])
def test_every_float_type_is_kept(dtype, jitted):
    with jax.enable_x64(dtype == jnp.float64):
        wrap = jax.jit if jitted else lambda f: f

        def f(x, w):
            return jnp.mean(jnp.tanh(x @ w) ** 2)

        x, w = jnp.asarray(V, dtype), jnp.ones((3, 2), dtype)
        mine, theirs = (wrap(m.value_and_grad(f, (0, 1)))(x, w) for m in (fg, jax))
        assert_same(mine, theirs, float(jnp.finfo(dtype).eps))


MIXED = {
    "float16 into float32": (np.float16(1.5), np.float32(2.0)),
    "bfloat16 into float32": (jnp.bfloat16(1.5), np.float32(2.0)),
    "Python float": (1.5, 2.0),
    "Python float and array": (1.5, V),
    "Python complex": (1.5, 2.0 + 1.0j),
    "numpy scalar": (np.float64(1.5), 2.0),
    "weak array": (jnp.asarray(1.5), V),
    "integer beside": (1.5, np.int32(2)),
    "Python bool beside": (1.5, True),
}


@pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
@pytest.mark.parametrize("arguments", MIXED.values(), ids=MIXED.keys())
def test_types_and_weak_types_of_gradients_are_those_of_jax(arguments, x64):
    def f(x, y):
        return jnp.sum(jnp.abs(x * y + 1) ** 2)

    inexact = tuple(i for i, x in enumerate(arguments) if jnp.issubdtype(jnp.result_type(x), jnp.inexact))
    with jax.enable_x64(x64):
        mine, theirs = (m.value_and_grad(f, inexact)(*arguments) for m in (fg, jax))
        assert_same(mine, theirs, 1e-6)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x,
        lambda x: x * 2,
        lambda x: 2.0,
        lambda x: jnp.sin(x) * np.float32(2),
        lambda x: x if x > 0 else -x,
        lambda x: jnp.where(x > 0, x, 0.0),
        lambda x: x.astype(np.float32),
        lambda x: jnp.sum(x * jnp.ones(3)),
        lambda x: x**2 / 3,
        jax.jit(lambda x: x * 2),
    ],
)
def test_the_gradient_of_a_python_float_is_as_weak_as_that_of_jax(f):
    assert_same(fg.value_and_grad(f)(1.5), jax.value_and_grad(f)(1.5), 1e-6)
    assert_same(fg.grad(fg.grad(f))(1.5), jax.grad(jax.grad(f))(1.5), 1e-6)


def test_integer_arguments_have_gradients_of_no_numbers_where_allowed():
    def f(i, x, flag):
        return jnp.sum(x[i] * flag)

    arguments = (np.array([0, 2]), V, np.array([True, False]))
    mine, theirs = (m.grad(f, (0, 1, 2), allow_int=True)(*arguments) for m in (fg, jax))
    assert_same(mine, theirs)
    assert mine[0].dtype == jax.dtypes.float0 and mine[0].shape == (2,)
    assert_same(fg.jacrev(f, (0, 1), allow_int=True)(*arguments), jax.jacrev(f, (0, 1), allow_int=True)(*arguments))


def test_vjp_takes_integers_in_and_out():
    def f(i, x):
        return 2 * i, x * i

    out, pullback = fg.vjp(f, np.int32(3), V)
    expected_out, expected = jax.vjp(f, np.int32(3), V)
    ct = (np.zeros((), jax.dtypes.float0), V)
    assert_same(out, expected_out)
    assert_same(pullback(ct), expected(ct))


def test_random_keys_pass_through_a_gradient():
    def f(key, x):
        return jnp.sum(x * jax.random.normal(key, (3,)))

    key = jax.random.key(0)
    assert_same(fg.grad(f, 1)(key, V), jax.grad(f, 1)(key, V))
    assert_same(fg.vjp(f, key, V)[1](1.0), jax.vjp(f, key, V)[1](1.0))


def test_holomorphic_functions_have_complex_derivatives():
    z = np.complex64(0.5 + 1.5j)
    f = lambda z: jnp.exp(z) * z**2  # noqa: E731
    assert_same(fg.grad(f, holomorphic=True)(z), jax.grad(f, holomorphic=True)(z), 1e-6)
    zs = np.array([z, 1j * z])
    assert_same(fg.jacrev(f, holomorphic=True)(zs), jax.jacrev(f, holomorphic=True)(zs), 1e-6)
    g = lambda z: jnp.sum(f(z))  # noqa: E731
    mine, theirs = (jax.jit(m.hessian(g, holomorphic=True))(zs) for m in (fg, jax))
    assert_same(mine, theirs, 1e-6)


def test_a_real_function_of_complex_numbers_has_the_convention_of_jax():
    def f(z):
        return jnp.abs(z) ** 2 + jnp.real(z**3)

    z = np.complex64(0.5 + 1.5j)
    assert_same(fg.grad(f)(z), jax.grad(f)(z), 1e-6)
    assert_same(fg.vjp(jnp.exp, z)[1](z), jax.vjp(jnp.exp, z)[1](z), 1e-6)


# Python.


def test_python_decides_on_values():
    def f(x, n):
        total = 0.0
        for i in range(n):
            if x > i:
                total += x**i
            else:
                break
        while total > 10:
            total = total / 2
        return total

    for x in (0.5, 1.5, 3.5):
        assert_same(fg.grad(f)(x, 6), jax.grad(f)(x, 6), 1e-6)


def test_values_can_be_used_wherever_python_wants_one():
    def f(x):
        assert bool(x) and x > 1 and int(x) == 2 and round(x) == 2
        return x * [10.0, 20.0, 30.0][int(x)] * np.asarray([1, 2, 3])[int(x)]

    assert float(fg.grad(f)(2.0)) == 90.0


def test_numpy_may_not_touch_a_value_that_is_differentiated():
    with pytest.raises(jax.errors.TracerArrayConversionError):
        fg.grad(lambda x: np.sin(x))(1.0)


def test_a_value_that_outlives_its_gradient_is_refused():
    kept = []
    fg.grad(lambda x: (kept.append(x), x * 2)[1])(1.0)
    with pytest.raises(jax.errors.UnexpectedTracerError):
        jax.jit(lambda: kept[0] + 1)()


# Jacobians and Hessians.


def trees(x, y):
    return {"a": jnp.outer(x, y["k"]), "b": jnp.sum(x * x)}


def test_jacobians_nest_the_trees_of_output_and_input():
    arguments = (V, {"k": V[:2]})
    assert_same(fg.jacrev(trees)(*arguments), jax.jacrev(trees)(*arguments))
    assert_same(fg.jacrev(trees, (0, 1))(*arguments), jax.jacrev(trees, (0, 1))(*arguments))
    assert_same(jax.jit(fg.jacrev(trees, 1))(*arguments), jax.jacrev(trees, 1)(*arguments))


def test_jacobians_of_matrices_have_the_shape_of_output_and_input():
    x = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    jacobian = fg.jacrev(lambda x: x.T @ x)(x)
    assert jacobian.shape == (3, 3, 2, 3)
    assert_same(jacobian, jax.jacrev(lambda x: x.T @ x)(x))


def test_hessians_are_those_of_jax():
    arguments = ({"w": V, "b": np.float32(0.5)}, V)

    def f(params, x):
        return jnp.sum(jnp.tanh(params["w"] * x + params["b"]) ** 2)

    assert_same(fg.hessian(f)(*arguments), jax.jit(jax.hessian(f))(*arguments), 1e-5)
    mine, theirs = (jax.jit(m.hessian(f, (0, 1)))(*arguments) for m in (fg, jax))
    assert_same(mine, theirs, 1e-6)


def test_the_jacobian_of_the_gradient_is_the_hessian():
    f = lambda x: jnp.sum(jnp.sin(x) * x[::-1] ** 2)  # noqa: E731
    expected = jax.jit(jax.hessian(f))(V)
    for hessian in (fg.jacrev(fg.grad(f)), jax.jacfwd(fg.grad(f)), fg.jacrev(fg.jacrev(f)), fg.hessian(f)):
        assert_same(jax.jit(hessian)(V), expected, 1e-6)


def test_hvp_is_the_hessian_times_the_vector():
    f = lambda x: jnp.sum(jnp.sin(x) * x[::-1] ** 2)  # noqa: E731
    direction = np.array([1.0, -2.0, 0.5], np.float32)
    np.testing.assert_allclose(fg.hvp(f, (V,), (direction,)), jax.hessian(f)(V) @ direction, rtol=1e-5)
    np.testing.assert_allclose(fg.hvp(f, [V], [direction]), jax.hessian(f)(V) @ direction, rtol=1e-5)


def test_hvp_of_several_arguments_is_a_tuple():
    tangents = tuple(np.ones_like(x) for x in ARGUMENTS)
    _, expected = jax.jvp(jax.grad(energy, (0, 1, 2)), ARGUMENTS, tangents)
    assert_same(fg.hvp(energy, ARGUMENTS, tangents), expected, 1e-6)
    assert_same(jax.jit(lambda p, t: fg.hvp(energy, p, t))(ARGUMENTS, tangents), expected, 1e-6)


# Refusals, each with JAX's type of exception. The message says what to do.


def grad_of(f, *args, **options):
    return lambda m: m.grad(f, **options)(*args)


def pulled(f, *args, ct, **options):
    return lambda m: m.vjp(f, *args, **options)[1](*ct)


REFUSED = {
    "a vector output": (grad_of(lambda x: x, V), "scalar.*shape: .3,.*vjp or jacrev"),
    "a tuple output": (grad_of(lambda x: (x, x), 1.0), "scalar-output functions"),
    "no output": (grad_of(lambda x: None, 1.0), "scalar-output functions"),
    "a string output": (grad_of(lambda x: "one", 1.0), "scalar-output functions|not a valid JAX type"),
    "an integer output": (grad_of(lambda x: jnp.argmax(x), V), "real-valued outputs.*vjp"),
    "a complex output": (grad_of(lambda x: x * 1j, 1.0), "real-valued outputs.*holomorphic=True"),
    "an integer input": (grad_of(lambda x: x * 1.0, 3), "inputs.*int32.*allow_int"),
    "a boolean input": (grad_of(lambda x: x * 1.0, True), "inputs.*bool.*allow_int"),
    "an integer leaf": (grad_of(lambda d: d["x"], {"x": 1.0, "n": 3}), "inputs.*int32.*allow_int"),
    "a string": (grad_of(lambda x: 1.0, "word"), "word.*not a valid JAX type"),
    "None in the place of a leaf": (grad_of(lambda x: x * 1.0, None), ""),
    "an array of objects": (grad_of(lambda x: 1.0, np.array([None])), "ndarray.*not a valid JAX"),
    "a real input, holomorphic": (grad_of(lambda x: x, 1.0, holomorphic=True), "holomorphic=True.*complex"),
    "a real output, holomorphic": (grad_of(jnp.abs, 1j, holomorphic=True), "holomorphic=True.*outputs"),
    "argnums out of range": (grad_of(lambda x: x, 1.0, argnums=1), "at least 2 positional arguments"),
    "argnums out of range in a tuple": (grad_of(lambda x: x, 1.0, argnums=(0, 2)), "at least 3 positional arguments"),
    "argnums far below zero": (grad_of(lambda x: x, 1.0, argnums=-3), ""),
    "argnums a float": (grad_of(lambda x: x, 1.0, argnums=0.5), ""),
    "argnums a string": (grad_of(lambda x: x, 1.0, argnums="x"), ""),
    "argnums of a keyword argument": (lambda m: m.grad(lambda x: x)(x=1.0), "at least 1 positional argument"),
    "something not callable": (lambda m: m.grad(3.0), "callable"),
    "vjp of something not callable": (lambda m: m.vjp(3.0, 1.0), "callable"),
    "has_aux without a pair": (grad_of(lambda x: x, 1.0, has_aux=True), "two-element tuple"),
    "has_aux with three": (grad_of(lambda x: (x, x, x), 1.0, has_aux=True), "two-element tuple"),
    "a primal that is no array": (lambda m: m.vjp(lambda x: 1.0, "word"), "word.*not a valid JAX type"),
    "a cotangent of the wrong shape": (pulled(jnp.sin, V, ct=[V[:2]]), "float32.2.*expected float32.3"),
    "a cotangent of the wrong dtype": (pulled(jnp.sin, V, ct=[V.astype(np.int32)]), "int32.3.*expected float32.3"),
    "a cotangent of a wider dtype": (pulled(jnp.sin, V, ct=[V.astype(np.float16)]), "float16.3.*expected float32.3"),
    "a cotangent of the wrong tree": (pulled(lambda x: [x], V, ct=[(V,)]), "tree structure"),
    "two cotangents": (pulled(lambda x: (x, x), V, ct=[V, V]), "called with 2 arguments.*single argument"),
    "no cotangent": (pulled(lambda x: x, V, ct=[]), ""),
    "jacrev of an integer": (lambda m: m.jacrev(lambda x: x * 1.0)(3), "inputs.*allow_int"),
    "jacrev with a complex output": (lambda m: m.jacrev(lambda x: x * 1j)(1.0), "outputs.*holomorphic=True"),
    "jacrev with an integer output": (lambda m: m.jacrev(lambda x: jnp.round(x).astype(int))(1.0), "outputs"),
    "jacrev with argnums out of range": (lambda m: m.jacrev(lambda x: x, argnums=2)(1.0), "value 2"),
    "hessian of an integer": (lambda m: m.hessian(lambda x: x * 1.0)(3), "inputs"),
}


@pytest.mark.parametrize(("attempt", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_jax_refuses_is_refused_with_its_exception(attempt, message):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        attempt(jax)
    public = next(t for t in type(theirs.value).__mro__ if t.__module__ in ("builtins", "jax.errors"))
    with pytest.raises(public, match=f"(?s){message}") as mine:
        attempt(fg)
    assert type(mine.value) is public


def test_hvp_refuses_tangents_that_do_not_fit():
    with pytest.raises(ValueError, match="shape"):
        fg.hvp(lambda x: jnp.sum(x**2), (V,), (V[:2],))
    with pytest.raises(TypeError, match=r"tree structure|primal and tangent"):
        fg.hvp(lambda x: jnp.sum(x**2), (V,), (V, V))
    with pytest.raises(TypeError, match="scalar"):
        fg.hvp(lambda x: x**2, (V,), (V,))


def test_an_error_of_the_function_is_its_own():
    def f(x):
        raise KeyError("mine")

    for transform in (fg.grad, fg.jacrev, fg.value_and_grad):
        with pytest.raises(KeyError, match="mine"):
            transform(f)(1.0)


def test_an_error_leaves_nothing_behind():
    def f(x):
        raise ValueError("mine")

    for wrap in (lambda f: f, jax.jit, jax.vmap):
        with pytest.raises(ValueError, match="mine"):
            wrap(fg.grad(f))(jnp.ones(3))
    assert float(fg.grad(lambda x: x**2)(3.0)) == 6.0

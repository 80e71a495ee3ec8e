"""Every primitive that JAX can differentiate has its place: a rule, an entry without derivative, or a reason."""

from __future__ import annotations

import fnmatch
import functools
import importlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import compute_on, pallas, scheduling_groups, sparse, xla_metadata
from jax.extend.core import Primitive, primitives

import funcgrad as fg
from funcgrad import _jax
from funcgrad.rules.control.foreign import REASONS, reason
from tests.agreement import assert_agrees

# What comes with JAX and adds to its tables when it is imported.
for module in ("buffer_callback", "fused", "hijax", "multihost_utils"):
    importlib.import_module(f"jax.experimental.{module}")

TABLES = (_jax.foreign_jvps, _jax.foreign_linearizations, _jax.foreign_transposes)


def home(rule: Callable) -> str:
    """The package that a rule of JAX's tables was written in."""
    if isinstance(rule, functools.partial):
        parts = [part for arg in rule.args for part in (arg if isinstance(arg, tuple) else (arg,))]
        inner = [part for part in parts if callable(part) and not isinstance(part, Primitive)]
        return home(inner[0] if inner else rule.func)
    return rule.__module__.partition(".")[0]


def comes_with_jax(primitive: Primitive) -> bool:
    return all(home(table[primitive]) == "jax" for table in TABLES if primitive in table)


known_to_jax = sorted({p for table in TABLES for p in table if comes_with_jax(p)}, key=str)
public = {x for module in (lax, lax.linalg, primitives) for x in vars(module).values() if isinstance(x, Primitive)}


def test_every_primitive_has_a_rule_or_a_reason_for_the_fallback():
    assert len(known_to_jax) > 200
    assert [p for p in known_to_jax if p not in fg.rules.default and reason(p) is None] == []


def test_nothing_that_jax_lax_names_is_left_to_the_fallback():
    assert not public & set(fg.rules.default.foreign())


def test_every_reason_is_needed():
    """Not every version of JAX has every primitive, but what has a rule needs no reason."""
    with_rules = list(map(str, fg.rules.default))
    for name in [name for names in REASONS.values() for name in names]:
        assert not fnmatch.filter(with_rules, name), name


def test_table_lists_what_it_leaves_to_jax():
    left = fg.rules.default.foreign()
    assert sparse.bcoo_dot_general_p in left and lax.sin_p not in left
    assert left == sorted(left, key=str)


@pytest.mark.parametrize("name", ["pmax", "pmin"])
def test_primitive_that_jax_cannot_differentiate_is_refused_as_in_jax(name):
    (primitive,) = [p for p in public if str(p) == name]
    assert primitive not in _jax.foreign_jvps and primitive not in fg.rules.default
    with pytest.raises(NotImplementedError, match=f"no derivative rule for the primitive '{name}'"):
        fg.rules.default.missing(primitive)


def test_operation_without_derivative_names_the_users_line():
    twice = Primitive("twice")
    twice.def_impl(lambda x: 2 * x)
    twice.def_abstract_eval(lambda x: x)
    with pytest.raises(NotImplementedError, match=r"'twice', used at .*test_coverage\.py"):
        fg.grad(lambda x: twice.bind(x))(1.0)
    with pytest.raises(NotImplementedError):
        jax.grad(lambda x: twice.bind(x))(1.0)


# The fallback.

dense = jnp.array([[0.0, 1.0, 0.0], [2.0, 0.0, 3.0]])
matrix = sparse.BCOO.fromdense(dense)
rows = sparse.CSR.fromdense(dense)
on_device = getattr(compute_on, "compute_on2", compute_on.compute_on)  # one function since jax 0.12


@pytest.mark.parametrize(
    "f",
    [
        lambda x: (matrix @ x) ** 2,
        lambda x: (sparse.BCOO((x, matrix.indices), shape=(2, 3)) @ x) ** 2,
        lambda x: jnp.sin(sparse.BCOO((x, matrix.indices), shape=(2, 3)).todense()),
        lambda x: sparse.BCOO.fromdense(jnp.outer(x, x), nse=9).data ** 2,
        lambda x: rows @ jnp.sin(x),
        lambda x: on_device(
            lambda x: x * jnp.sin(x), compute_type="device_host", out_memory_spaces=jax.memory.Space.Device
        )(x),
        lambda x: scheduling_groups.xla_metadata_call(lambda x: x * jnp.sin(x), key="value")(x),
    ],
    ids=["matvec", "data", "todense", "fromdense", "csr", "compute_on", "metadata"],
)
def test_fallback_agrees_with_jax(f):
    assert_agrees(lambda x: jnp.sum(f(x)), jnp.array([0.5, -1.0, 2.0]))


def test_kernel_is_refused_as_in_jax():
    def double(x_ref, out_ref):
        out_ref[...] = 2 * x_ref[...]

    def f(x):
        return pallas.pallas_call(double, out_shape=jax.ShapeDtypeStruct((), x.dtype), interpret=True)(x)

    for grad in (jax.grad, fg.grad):
        with pytest.raises((ValueError, NotImplementedError), match=r"Linearization failed|pallas_call"):
            grad(f)(1.0)


def test_foreign_function_is_refused_as_in_jax():
    f = jax.ffi.ffi_call("nowhere", jax.ShapeDtypeStruct((), np.float32))
    for grad in (jax.grad, fg.grad):
        with pytest.raises(ValueError, match="The FFI call to `nowhere` cannot be differentiated"):
            grad(f)(1.0)


def test_derivative_of_a_linearized_custom_vjp_is_refused_as_in_jax():
    @jax.custom_vjp
    def f(x):
        return jnp.sin(x)

    f.defvjp(lambda x: (f(x), jnp.cos(x)), lambda slope, ct: (slope * ct,))
    _, linear = jax.linearize(f, 0.5)
    for grad in (jax.grad, fg.grad):
        with pytest.raises(NotImplementedError, match="custom_lin"):
            grad(linear)(1.0)


# Markers.


@pytest.mark.parametrize(
    "mark",
    [
        lambda x: _jax.tie_p.bind(x**2, jnp.sin(x)),
        lambda x: _jax.stage_p.bind(jnp.sin(x)),
        lambda x: xla_metadata.set_xla_metadata(jnp.sin(x), key="value"),
        lambda x: (lax.dce_sink(jnp.cos(x)), jnp.sin(x))[1],
    ],
    ids=["tie", "stage", "metadata", "dce_sink"],
)
def test_marker_passes_derivatives_on(mark):
    assert_agrees(lambda x: jnp.sum(mark(x)), jnp.array([0.5, 2.0]))


class Largest:
    """The rules of an extended dtype: float32, but with the maximum for a sum."""

    allow_conversion = True

    @staticmethod
    def physical_element_aval(dtype):
        return jax.core.ShapedArray((), np.dtype(np.float32))

    @staticmethod
    def tangent_dtype(dtype):
        return dtype

    @staticmethod
    def add(dtype, x, y):
        largest = lax.max(*[lax.convert_element_type(a, np.dtype(np.float32)) for a in (x, y)])
        return lax.convert_element_type(largest, dtype)


class LargestDType(_jax.dtypes.ExtendedDType):
    name, itemsize, type, _rules = "largest", 4, _jax.extended, Largest

    def __hash__(self):
        return hash(self.name)

    def __eq__(self, other):
        return isinstance(other, LargestDType)


def test_cotangents_of_an_extended_dtype_are_of_that_dtype_and_add_up_by_its_rule():
    def f(x):
        marked = lax.convert_element_type(x, LargestDType())
        doubled, tripled = [n * lax.convert_element_type(marked, np.dtype(np.float32)) for n in (2, 3)]
        return jnp.sum(doubled + tripled)

    np.testing.assert_array_equal(jax.jit(fg.grad(f))(jnp.ones(2)), [3, 3])

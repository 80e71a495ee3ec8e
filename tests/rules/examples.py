"""A small call of every primitive that has a derivative, for tests that go over the whole table."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import hijax, layout, xla_metadata
from jax.extend.core import Primitive
from jax.extend.core import primitives as p
from jax.interpreters.ad import add_jaxvals
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from funcgrad import _jax
from funcgrad.programs.waiting import waiting_p
from funcgrad.rules import later


class Example(NamedTuple):
    """``function(*args)`` applies the primitive once; it is differentiated by its floating-point arguments."""

    primitive: Primitive
    function: Callable
    args: tuple[Any, ...]
    note: str = ""
    #: Whether the CPU can run it.
    runs: bool = True
    #: How many times JAX can differentiate it.
    order: int = 2

    @property
    def active(self) -> tuple[int, ...]:
        return tuple([i for i, x in enumerate(self.args) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)])

    def along(self, active: tuple[int, ...], args: tuple[Any, ...]) -> Callable:
        """The function as one of the operands ``active`` alone, the others being those of ``args``."""

        def partial(*xs):
            given = dict(zip(active, xs, strict=True))
            return self.function(*(given.get(i, x) for i, x in enumerate(args)))

        return partial

    def __str__(self) -> str:
        return f"{self.primitive}-{self.note}" if self.note else str(self.primitive)


MESH, EXPLICIT = [jax.make_mesh((1,), ("i",), axis_types=(kind,)) for kind in (AxisType.Auto, AxisType.Explicit)]

_seeds = itertools.count()


def draw(*shape: int, dtype: Any = np.float64) -> np.ndarray:
    """Normal numbers, other ones each time."""
    rng = np.random.default_rng(next(_seeds))
    x = rng.normal(size=shape)
    return (x + 1j * rng.normal(size=shape) if np.issubdtype(dtype, np.complexfloating) else x).astype(dtype)


def positive(*shape: int) -> np.ndarray:
    return np.abs(draw(*shape)) + 0.5


def unit(*shape: int) -> np.ndarray:
    """Numbers between -1 and 1."""
    return np.tanh(draw(*shape))


def complex_(*shape: int) -> np.ndarray:
    return draw(*shape, dtype=np.complex128)


def posdef(n: int, dtype: Any = np.float64) -> np.ndarray:
    x = draw(n, n, dtype=dtype)
    return x @ x.conj().T + n * np.eye(n)


def of(primitive: Primitive, function: Callable, *args: Any, note: str = "", **limits: Any) -> Example:
    return Example(primitive, function, args, note, **limits)


# Elementwise.

on_all = (
    lax.neg, lax.square, lax.exp, lax.exp2, lax.expm1, lax.logistic, lax.tanh, lax.sin, lax.cos, lax.tan, lax.atan,
    lax.sinh, lax.cosh, lax.asinh, lax.abs, lax.erf, lax.erfc, lax.bessel_i0e, lax.bessel_i1e, lax.cbrt,
)  # fmt: skip
on_positive = (lax.sqrt, lax.rsqrt, lax.log, lax.log1p, lax.lgamma, lax.digamma)
on_unit = (lax.asin, lax.acos, lax.atanh, lax.erf_inv)
of_pairs = (lax.add, lax.sub, lax.mul, lax.div, lax.rem, lax.max, lax.min, lax.atan2)


def primitive_of(function: Callable) -> Primitive:
    return getattr(lax, f"{function.__name__}_p")


elementwise = [
    *[of(primitive_of(f), f, draw(3)) for f in on_all],
    *[of(primitive_of(f), f, positive(3)) for f in on_positive],
    *[of(primitive_of(f), f, unit(3)) for f in on_unit],
    *[of(primitive_of(f), f, draw(2, 3), draw(2, 3)) for f in of_pairs],
    *[of(primitive_of(f), f, draw(2, 3), draw(1, 3), note="broadcast") for f in of_pairs],
    *[of(primitive_of(f), f, complex_(3), note="complex") for f in (lax.exp, lax.log, lax.tanh, lax.abs, lax.square)],
    of(lax.mul_p, lax.mul, complex_(3), complex_(3), note="complex"),
    of(lax.acosh_p, lax.acosh, 1 + positive(3)),
    of(lax.pow_p, lax.pow, positive(3), draw(3)),
    of(lax.pow_p, lax.pow, draw(3), np.arange(3), note="integer"),
    *[of(lax.integer_pow_p, functools.partial(lax.integer_pow, y=n), positive(3), note=f"{n}") for n in (-2, 2, 3)],
    of(lax.clamp_p, lax.clamp, -positive(4), draw(4), positive(4)),
    of(p.add_jaxvals_p, add_jaxvals, draw(3), draw(3)),
    of(lax.real_p, lax.real, complex_(3)),
    of(lax.imag_p, lax.imag, complex_(3)),
    of(lax.conj_p, lax.conj, complex_(3)),
    of(lax.complex_p, lax.complex, draw(3), draw(3)),
    of(lax.convert_element_type_p, lambda x: lax.convert_element_type(x, np.float32), draw(3)),
    of(lax.reduce_precision_p, lambda x: lax.reduce_precision(x, 8, 10), draw(3)),
    of(lax.copy_p, lax.copy_p.bind, draw(3)),
    of(lax.nextafter_p, lax.nextafter, draw(3), draw(3), order=0),
]

# Special functions.

special = [
    of(lax.polygamma_p, lambda y, x: lax.polygamma(lax.convert_element_type(x, y.dtype), y), positive(3), np.arange(3)),
    of(lax.zeta_p, lambda y: lax.zeta(np.full(3, 2.5), y), positive(3), order=0),
    of(lax.igamma_p, lambda x: lax.igamma(np.full(3, 1.5), x), positive(3)),
    of(lax.igammac_p, lambda x: lax.igammac(np.full(3, 1.5), x), positive(3)),
    of(lax.igamma_grad_a_p, lambda x: lax.igamma_grad_a(np.full(3, 1.5), x), positive(3), order=0),
    of(
        lax.regularized_incomplete_beta_p,
        lambda x: lax.betainc(np.full(3, 1.5), np.full(3, 0.5), x),
        np.array([0.2, 0.5, 0.7]),
    ),
]

# Shapes.

shaping = [
    of(lax.reshape_p, lambda x: lax.reshape(x, (3, 2)), draw(2, 3)),
    of(lax.reshape_p, lambda x: lax.reshape(x, (3, 2), (1, 0)), draw(2, 3), note="dimensions"),
    of(lax.squeeze_p, lambda x: lax.squeeze(x, [1]), draw(2, 1)),
    of(lax.transpose_p, lambda x: lax.transpose(x, (1, 2, 0)), draw(2, 3, 4)),
    of(lax.rev_p, lambda x: lax.rev(x, [1]), draw(2, 3)),
    of(lax.broadcast_in_dim_p, lambda x: lax.broadcast_in_dim(x, (2, 3, 4), (0, 2)), draw(2, 1)),
    of(lax.tile_p, lambda x: lax.tile(x, (2, 3)), draw(2, 3)),
    of(lax.pad_p, lambda x, y: lax.pad(x, y, [(1, -1, 1), (0, 2, 0)]), draw(2, 3), draw()),
    of(lax.concatenate_p, lambda *xs: lax.concatenate(xs, 1), draw(2, 1), draw(2, 3)),
    of(lax.split_p, lambda x: lax.split(x, [1, 2], axis=1), draw(2, 3)),
    of(lax.stack_p, lambda *xs: lax.stack_p.bind(*xs, axis=1), draw(2), draw(2)),
    of(lax.unstack_p, lambda x: lax.unstack_p.bind(x, axis=1), draw(2, 3)),
    of(lax.select_n_p, lax.select_n, np.array([True, False, True]), draw(3), draw(3)),
    of(lax.select_n_p, lax.select_n, np.array([0, 2, 1], np.int32), draw(3), draw(3), draw(3), note="three"),
    of(lax.optimization_barrier_p, lax.optimization_barrier, draw(3)),
    of(p.name_p, lambda x: checkpoint_name(x, "x"), draw(3)),
]

# Reductions, cumulative operations, windows.

WINDOW = dict(window_dimensions=(2, 2), window_strides=(1, 2), padding=((1, 0), (0, 1)))
DILATED = dict(base_dilation=(1, 2), window_dilation=(2, 1))


def window(primitive: Primitive, **how) -> Callable:
    how = {"base_dilation": (1, 1), "window_dilation": (1, 1), **WINDOW, **how}
    return lambda x: primitive.bind(x, **how)


reductions = [
    *[of(primitive_of(f), lambda x, f=f: f(x, [1]), draw(2, 3)) for f in (lax.reduce_sum, lax.reduce_prod)],
    *[of(primitive_of(f), lambda x, f=f: f(x, [1]), np.round(draw(2, 6))) for f in (lax.reduce_max, lax.reduce_min)],
    of(lax.reduce_p, lambda x: lax.reduce(x, -np.inf, jnp.logaddexp, (1,)), draw(2, 3)),
    *[
        of(primitive_of(f), functools.partial(f, axis=1), draw(2, 4))
        for f in (lax.cumsum, lax.cumprod, lax.cummax, lax.cummin, lax.cumlogsumexp)
    ],
    *[
        of(primitive, window(primitive), draw(3, 4))
        for primitive in (lax.reduce_window_sum_p, lax.reduce_window_max_p, lax.reduce_window_min_p)
    ],
    of(lax.reduce_window_sum_p, window(lax.reduce_window_sum_p, **DILATED), draw(3, 4), note="dilated"),
    of(lax.reduce_window_max_p, window(lax.reduce_window_max_p, **DILATED), draw(3, 4), note="dilated", order=0),
    of(
        lax.reduce_window_p,
        lambda x: lax.reduce_window(x, 1.0, lambda a, b: a * b + 0 * a, (2, 2), (1, 2), ((1, 0), (0, 1))),
        draw(3, 4),
        order=0,
    ),
    of(
        lax.select_and_scatter_add_p,
        lambda ct, x: lax.select_and_scatter_add_p.bind(ct, x, select_prim=lax.ge_p, **WINDOW),
        draw(3, 2),
        draw(3, 4),
    ),
    of(
        lax.select_and_gather_add_p,
        lambda ct, x: lax.select_and_gather_add_p.bind(
            ct, x, select_prim=lax.ge_p, base_dilation=(1, 1), window_dilation=(1, 1), **WINDOW
        ),
        draw(3, 4),
        draw(3, 4),
    ),
]

# Contractions, convolutions, Fourier transforms.

ROWS = ((2, 1, 1), (3, 0, 2))
contractions = [
    of(lax.dot_general_p, lambda x, y: lax.dot_general(x, y, (([1], [0]), ([], []))), draw(2, 3), draw(3, 4)),
    of(
        lax.dot_general_p,
        lambda x, y: lax.dot_general(x, y, (([1, 3], [2, 0]), ([2], [3]))),
        draw(2, 3, 4, 2),
        draw(2, 5, 3, 4),
        note="batch",
    ),
    of(_jax.ragged_dot_general_p, lax.ragged_dot, draw(4, 2), draw(3, 2, 5), np.array([2, 1, 1], np.int32), order=1),
    of(
        lax.conv_general_dilated_p,
        lambda x, y: lax.conv_general_dilated(x, y, (2,), [(1, 0)], (1,), (2,), feature_group_count=2),
        draw(1, 4, 7),
        draw(4, 2, 2),
    ),
    of(lax.fft_p, lambda x: lax.fft(x, lax.FftType.FFT, (4,)), complex_(2, 4)),
    of(lax.fft_p, lambda x: lax.fft(x, lax.FftType.RFFT, (4,)), draw(2, 4), note="rfft"),
    of(lax.fft_p, lambda x: lax.fft(x, lax.FftType.IRFFT, (4,)), complex_(2, 3), note="irfft"),
]

# Indexing and ordering.

PLACES = np.array([[0], [2], [2]], np.int32)
APART = np.array([[0], [2]], np.int32)
TAKE_ROWS = lax.GatherDimensionNumbers(offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,))
PUT_ROWS = lax.ScatterDimensionNumbers((1,), (0,), (0,))


def scatter(function: Callable, **how) -> Callable:
    return lambda x, y, z: function(x, y, z, PUT_ROWS, mode="drop", **how)


indexing = [
    of(lax.slice_p, lambda x: lax.slice(x, (0, 1), (2, 4), (1, 2)), draw(2, 4)),
    of(lax.dynamic_slice_p, lambda x, i: lax.dynamic_slice(x, (i, i), (2, 2)), draw(4, 3), np.int32(1)),
    of(
        lax.dynamic_update_slice_p,
        lambda x, y, i: lax.dynamic_update_slice(x, y, (i, i)),
        draw(4, 3),
        draw(2, 2),
        np.int32(1),
    ),
    of(lax.gather_p, lambda x, i: lax.gather(x, i, TAKE_ROWS, (1, 2), mode="fill"), draw(3, 2), PLACES),
    *[
        of(primitive, scatter(f), draw(3, 2), PLACES, draw(3, 2))
        for primitive, f in [
            (lax.scatter_p, lax.scatter),
            (lax.scatter_add_p, lax.scatter_add),
            (lax.scatter_sub_p, lax.scatter_sub),
            (lax.scatter_min_p, lax.scatter_min),
            (lax.scatter_max_p, lax.scatter_max),
        ]
    ],
    *[
        of(primitive, scatter(f, unique_indices=True), draw(3, 2), APART, draw(2, 2), note="unique")
        for primitive, f in [(lax.scatter_p, lax.scatter), (lax.scatter_mul_p, lax.scatter_mul)]
    ],
    of(lax.sort_p, lambda x: lax.sort(x, dimension=1), draw(2, 4)),
    of(lax.sort_p, lambda x, y: lax.sort((x, y), dimension=1), draw(2, 4), draw(2, 4), note="two"),
    of(lax.top_k_p, lambda x: lax.top_k(x, 2), draw(2, 4)),
    of(lax.approx_top_k_p, lambda x: lax.approx_max_k(x, 2), draw(2, 4)),
]

# Linear algebra.

LOWER = np.tril(draw(3, 3)) + 3 * np.eye(3)
linalg = [
    of(lax.linalg.cholesky_p, lambda x: lax.linalg.cholesky(x, symmetrize_input=False), posdef(3)),
    of(lax.linalg.lu_p, lax.linalg.lu, draw(3, 3)),
    of(lax.linalg.lu_p, lax.linalg.lu, draw(4, 3), note="tall"),
    of(lax.linalg.qr_p, lambda x: lax.linalg.qr(x, full_matrices=False), draw(4, 3)),
    of(lax.linalg.eigh_p, lax.linalg.eigh, posdef(3)),
    of(lax.linalg.eig_p, functools.partial(lax.linalg.eig, enable_eigvec_derivs=True), draw(3, 3)),
    of(
        lax.linalg.eig_p,
        lambda x: lax.linalg.eig(x, compute_left_eigenvectors=False, compute_right_eigenvectors=False),
        draw(3, 3),
        note="values",
        order=1,
    ),
    of(lax.linalg.svd_p, lambda x: lax.linalg.svd(x, full_matrices=False), draw(4, 3)),
    # JAX has no rules for these; tests/rules/test_linalg.py has them beside differences.
    of(lax.linalg.schur_p, lax.linalg.schur, draw(3, 3), order=0),
    of(lax.linalg.hessenberg_p, lax.linalg.hessenberg, draw(3, 3), order=0),
    of(lax.linalg.tridiagonal_p, lax.linalg.tridiagonal, draw(3, 3), order=0),
    of(_jax.geqrf_p, lambda x: jnp.linalg.qr(x, mode="raw"), draw(4, 3), order=0),
    of(lax.linalg.householder_product_p, lax.linalg.householder_product, draw(4, 3), draw(3), order=0),
    of(lax.linalg.ormqr_p, lax.linalg.ormqr, draw(4, 3), draw(3), draw(4, 2), order=0),
    of(
        lax.linalg.cholesky_update_p,
        # It takes triangular matrices only, and mixes in what else it is given.
        lambda x, y: lax.linalg.cholesky_update(jnp.triu(x), y),
        np.triu(posdef(3)),
        draw(3),
        order=0,
    ),
    of(lax.linalg.symmetric_product_p, lax.linalg.symmetric_product, draw(3, 2), draw(3, 3), order=0),
    of(lax.linalg.svd_p, lambda x: lax.linalg.svd(x, full_matrices=False, compute_uv=False), draw(4, 3), note="values"),
    of(
        lax.linalg.triangular_solve_p,
        lambda x, y: lax.linalg.triangular_solve(x, y, left_side=True, lower=True),
        LOWER,
        draw(3, 2),
    ),
    of(
        lax.linalg.tridiagonal_solve_p,
        lax.linalg.tridiagonal_solve,
        np.array([0, 0.5, 0.2]),
        2 + positive(3),
        np.array([0.3, 0.1, 0]),
        draw(3, 2),
    ),
    of(
        lax.linear_solve_p,
        lambda a, b: lax.custom_linear_solve(
            lambda x: a @ x, b, lambda matvec, b: jnp.linalg.inv(a) @ b, lambda vecmat, b: jnp.linalg.inv(a.T) @ b
        ),
        posdef(3),
        draw(3),
    ),
]

# Randomness, placement, markers.


def sample(a, log_space):
    return p.random_gamma_p.bind(jax.random.key(0), a, log_space=log_space)


placement = [
    of(p.random_gamma_p, functools.partial(sample, log_space=False), positive(3), order=1),
    of(p.random_gamma_p, functools.partial(sample, log_space=True), positive(3), note="log", order=1),
    of(p.device_put_p, jax.device_put, draw(3)),
    of(lax.sharding_constraint_p, lambda x: lax.with_sharding_constraint(x, NamedSharding(MESH, P("i"))), draw(3)),
    of(
        _jax.layout_constraint_p,
        lambda x: layout.with_layout_constraint(x, layout.Layout(major_to_minor=(1, 0))),
        draw(2, 3),
    ),
    of(_jax.reshard_p, lambda x: jax.sharding.reshard(x, NamedSharding(EXPLICIT, P("i"))), draw(3)),
    of(_jax.tie_p, _jax.tie_p.bind, draw(3), draw(3)),
    of(_jax.xla_metadata_value_p, lambda x: xla_metadata.set_xla_metadata(x, key="value"), draw(3)),
]

# Collectives, over one device.

VARYING, SAME = P("i"), P()
GATHER = dict(all_gather_dimension=0, axis_name=("i",), axis_size=1, tiled=True)


def mapped(function: Callable, ins: Any = VARYING, outs: Any = VARYING, check_vma: bool = True) -> Callable:
    return jax.shard_map(function, mesh=MESH, in_specs=ins, out_specs=outs, check_vma=check_vma)


def cast(to: str) -> Callable:
    return lambda x: lax.pcast(x, "i", to=to)


def unreduced(function: Callable, outs: P) -> Callable:
    return mapped(lambda x: function(cast("unreduced")(x)), outs=outs)


def reduced(function: Callable, ins: P) -> Callable:
    return mapped(lambda x: cast("varying")(function(x)), ins)


def exchange(x, y):
    return lax.ragged_all_to_all(x, y, *[np.array([n], np.int32) for n in (0, 2, 0, 2)], axis_name="i")


collectives = [
    of(lax.psum_p, mapped(lambda x: lax.psum(x, "i"), check_vma=False), draw(2, 3)),
    of(lax.ppermute_p, mapped(lambda x: lax.ppermute(x, "i", [(0, 0)])), draw(2, 3)),
    of(lax.all_to_all_p, mapped(lambda x: lax.all_to_all(x, "i", 0, 1, tiled=True)), draw(2, 3)),
    of(lax.all_gather_p, mapped(lambda x: lax.all_gather(x, "i")), draw(2, 3)),
    of(_jax.reduce_scatter_p, mapped(lambda x: lax.psum_scatter(x, "i", tiled=True)), draw(2, 3)),
    of(_jax.psum_invariant_p, mapped(lambda x: lax.psum(x, "i"), outs=SAME), draw(2, 3)),
    of(_jax.pvary_p, mapped(cast("varying"), SAME), draw(2, 3)),
    of(
        _jax.all_gather_invariant_p,
        mapped(lambda x: _jax.all_gather_invariant_p.bind(x, **GATHER), outs=SAME),
        draw(2, 3),
    ),
    of(_jax.all_gather_reduced_p, reduced(lambda x: lax.all_gather(x, "i", to="reduced"), VARYING), draw(2, 3)),
    of(_jax.preduced_p, reduced(cast("reduced"), SAME), draw(2, 3)),
    of(_jax.reduced_vary_cast_p, reduced(cast("reduced"), SAME), draw(2, 3)),
    of(_jax.unreduced_psum_p, unreduced(lambda x: _jax.unreduced_psum(x, "i"), SAME), draw(2, 3)),
    of(_jax.vary_unreduced_cast_p, unreduced(lambda x: _jax.unreduced_psum(x, "i"), SAME), draw(2, 3)),
    of(
        _jax.unreduced_reduce_scatter_p,
        unreduced(lambda x: _jax.unreduced_psum_scatter(x, axis_name="i", tiled=True), VARYING),
        draw(2, 3),
    ),
    of(
        _jax.ragged_all_to_all_p,
        mapped(exchange, (VARYING, VARYING), check_vma=False),
        draw(2, 3),
        draw(2, 3),
        runs=False,
    ),
    of(_jax.shard_map_p, mapped(lambda x: x * jnp.sin(x)), draw(2, 3)),
]

# References.


def stored(function: Callable) -> Callable:
    """A function of a reference as one of what it holds, which returns that too."""

    def on_values(x, *args):
        ref = jax.new_ref(x)
        out = function(ref, *args)
        return out, jax.freeze(ref)

    return on_values


def swap(ref, y):
    old, ref[1] = ref[1], y
    return old


def filled(x):
    ref = jax.empty_ref(jax.typeof(x))
    ref[...] = x
    return jax.freeze(ref)


references = [
    of(_jax.ref_p, stored(lambda ref: ref[...]), draw(3)),
    of(_jax.empty_ref_p, filled, draw(3)),
    of(_jax.freeze_p, stored(lambda ref: ref[...]), draw(3)),
    of(_jax.get_p, stored(lambda ref: ref[1:]), draw(3)),
    of(_jax.swap_p, stored(swap), draw(3), draw(), order=1),
    of(_jax.addupdate_p, stored(lambda ref, y: ref.addupdate(y)), draw(3), draw(3)),
]

# Programs.


def product(x, y):
    return jnp.sin(x) * y


#: As jax 0.12 spells it, and as it was spelled before.
HiPrimitive = getattr(hijax, "HiPrim", None) or hijax.VJPHiPrimitive


class Scale(HiPrimitive):
    """2x, as a hijax primitive."""

    def __init__(self, aval):
        self.in_avals, self.out_aval, self.params = (aval,), aval, {}
        super().__init__()

    def expand(self, x):
        return 2 * x

    def vjp_fwd(self, nonzero, x):
        return self(x), None

    def vjp_bwd_retval(self, residuals, ct):
        return (2 * ct,)


def step(carry, x):
    carry = jnp.sin(carry) * x
    return carry, carry**2


def until(x, bound):
    return lax.while_loop(lambda c: jnp.sum(c) < bound, lambda c: c * (2 + jnp.sin(c)), x)


programs = [
    of(p.jit_p, jax.jit(product), draw(3), draw(3)),
    of(lax.scan_p, lambda c, xs: lax.scan(step, c, xs), draw(2), draw(4, 2)),
    of(lax.cond_p, lambda i, x, y: lax.cond(i > 0, product, jnp.add, x, y), np.int32(1), draw(3), draw(3)),
    of(lax.while_p, until, positive(2), 9.0, order=0),
    of(p.remat_p, jax.checkpoint(product), draw(3), draw(3)),
    of(
        _jax.linear_call_p,
        lambda r, x: jax.custom_derivatives.linear_call(lambda r, x: r * x, lambda r, ct: r * ct, r, x),
        np.arange(3),
        draw(3),
    ),
    of(_jax.call_hi_primitive_p, lambda x: Scale(jax.typeof(x))(x), draw(3)),
]

examples = [
    *elementwise, *special, *shaping, *reductions, *contractions, *indexing, *linalg, *placement, *collectives,
    *references, *programs,
]  # fmt: skip

#: Primitives with a rule for which there is no example, and why.
WITHOUT = {
    _jax.to_edtype_p: "no extended dtype that comes with JAX has a derivative",
    _jax.from_edtype_p: "no extended dtype that comes with JAX has a derivative",
    _jax.pbroadcast_p: "runs on GPUs only",
    _jax.stage_p: "offered to a trace as a method, stage_value",
    waiting_p: "jax.checkpoint on the way back: programs/test_waiting.py",
    _jax.remat_opt_p: "inside the forward function of a custom_vjp with optimize_remat",
    **dict.fromkeys([_jax.custom_jvp_call_p, _jax.custom_vjp_call_p], "functions, not operations: test_custom.py"),
    _jax.eval_jaxpr_p: "staged out as a call",
    _jax.free_ref_p: "has no output",
    _jax.accum_grad_in_ref_p: "made by the pullbacks of JAX's own jax.vjp",
    **dict.fromkeys(later.rules, "in newer releases only: test_later.py"),
}

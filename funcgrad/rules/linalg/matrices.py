"""Batched matrices in ``lax``: products, triangles, diagonals, permutations, solves.

All functions take ``[..., m, n]`` and work on the last two dimensions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad.rules.numbers import const, full_like, is_complex, nonzero

triangular_solve = lax.linalg.triangular_solve


def textbook(rule: Callable) -> Callable:
    """A rule written for the pairing Re tr(X̄ᴴ dX) of cotangent and tangent, as matrix calculus has it.

    JAX pairs them without the conjugation, so its cotangents are the conjugates of the textbook's.
    """

    @functools.wraps(rule)
    def conjugated(cts, *saved, **params):
        return jax.tree.map(conj, rule(jax.tree.map(conj, cts), *saved, **params))

    return conjugated


# Elementwise, for matrices that may be real or complex.


def conj(x):
    return lax.conj(x) if is_complex(x) else x


def real(x):
    return lax.real(x) if is_complex(x) else x


def cast(x, like):
    return x if x.dtype == like.dtype else lax.convert_element_type(x, like.dtype)


def total(*terms):
    """The sum of the terms that are not None, the symbolic zero."""
    present = [x for x in terms if x is not None]
    return functools.reduce(lax.add, present) if present else None


# Products and transposes. Cotangents of factorizations cancel; they are worth full precision on every platform.


def transpose(x):
    return lax.transpose(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def adjoint(x):
    """The conjugate transpose."""
    return conj(transpose(x))


def matmul(x, y):
    batch = range(x.ndim - 2)
    return lax.dot_general(x, y, (([x.ndim - 1], [y.ndim - 2]), (batch, batch)), precision=lax.Precision.HIGHEST)


def columns(x, start, stop):
    return lax.slice_in_dim(x, start, stop, axis=-1)


def rows(x, start, stop):
    return lax.slice_in_dim(x, start, stop, axis=-2)


def scale_columns(x, scale):
    """x diag(scale)"""
    return lax.mul(x, cast(lax.expand_dims(scale, [-2]), x))


def scale_rows(x, scale):
    """diag(scale) x"""
    return lax.mul(cast(lax.expand_dims(scale, [-1]), x), x)


def weigh(x, weights):
    """x_ij weights_ij"""
    return lax.mul(x, cast(weights, x))


# Triangles and diagonals.


def below(x, offset=0):
    """Where entries lie below the diagonal, by more than ``offset``."""
    shape = x.shape[-2:]
    i, j = (lax.broadcasted_iota(np.int32, shape, d) for d in (0, 1))
    mask = lax.gt(i, lax.add(j, np.int32(offset)) if offset else j)
    return spread(mask, x)


def on_diagonal(x):
    shape = x.shape[-2:]
    return spread(lax.eq(*(lax.broadcasted_iota(np.int32, shape, d) for d in (0, 1))), x)


def spread(mask, x):
    """A mask of one matrix for the whole batch of ``x``."""
    if mask.ndim == x.ndim:
        return mask
    sharding = _jax.explicit_sharding(_jax.typeof(x))
    return lax.broadcast_in_dim(mask, x.shape, (x.ndim - 2, x.ndim - 1), out_sharding=sharding)


def lower(x, offset=0):
    """The lower triangle, from ``offset`` below the diagonal."""
    return lax.select(below(x, offset - 1), x, full_like(x, 0))


def upper(x, offset=0):
    """The upper triangle, from ``offset`` above the diagonal."""
    return lax.select(below(x, -offset), full_like(x, 0), x)


def unit_lower(x):
    """What is below the diagonal, and ones on it."""
    return add_to_diagonal(lower(x, 1), const(x, 1))


def half_lower(x):
    """The lower triangle, its diagonal halved, so that ``half_lower(x) + adjoint(half_lower(x))`` is x if x = xᴴ."""
    halved = lax.mul(x, const(x, 0.5))
    return lax.select(below(x), x, lax.select(on_diagonal(x), halved, full_like(x, 0)))


def diagonal(x):
    return lax.reduce_sum(lax.select(on_diagonal(x), x, full_like(x, 0)), [x.ndim - 1])


def add_to_diagonal(x, d):
    """x + diag(d), or x + d 1 for a scalar d"""
    d = cast(lax.expand_dims(d, [-1]), x) if d.ndim else d
    return lax.select(on_diagonal(x), lax.add(x, d), x)


def over_gaps(x, values):
    """x_ij / (values_j - values_i) off the diagonal, zero on it."""
    diagonal = on_diagonal(x)
    gaps = lax.sub(lax.expand_dims(values, [-2]), lax.expand_dims(values, [-1]))
    gaps = lax.select(diagonal, full_like(gaps, 1), gaps)
    return lax.select(diagonal, full_like(x, 0), over(x, gaps))


# Sizes. A matrix c x has the factors of x, some of them c times as large; derivatives are taken at a c where no product
# of two sizes over- or underflows.


def over(x, d):
    """x / d, for d that broadcast. No square of d is taken on the way, and no reciprocal."""
    if is_complex(d):
        size = power_of_two(lax.max(lax.abs(lax.real(d)), lax.abs(lax.imag(d))))
        d = over(d, size)
        squares = lax.add(lax.square(lax.real(d)), lax.square(lax.imag(d)))
        return over(over(lax.mul(x, lax.conj(d)), squares), size)
    if is_complex(x):
        return lax.complex(lax.div(lax.real(x), d), lax.div(lax.imag(x), d))
    return lax.div(x, d)


def power_of_two(x):
    """The power of two of positive ``x``, one where that is zero: a constant, whatever x depends on."""
    integer, exponent = (np.int32, 0xFF << 23) if x.dtype == np.float32 else (np.int64, 0x7FF << 52)
    bits = lax.bitcast_convert_type(x, integer)
    return nonzero(lax.bitcast_convert_type(lax.bitwise_and(bits, full_like(bits, exponent)), x.dtype))


def size_of(x):
    """The power of two of the largest entry of each matrix, as a matrix of one."""
    parts = [lax.abs(part) for part in ((lax.real(x), lax.imag(x)) if is_complex(x) else (x,))]
    largest = lax.reduce_max(functools.reduce(lax.max, parts), [x.ndim - 2, x.ndim - 1])
    return lax.expand_dims(power_of_two(largest), [-2, -1])


# Permutations and general solves.


def put_rows(x, places):
    """The matrix whose row places[i] is row i of x."""
    sharding = _jax.explicit_sharding(_jax.typeof(places))
    counts = lax.broadcasted_iota(np.int32, places.shape, places.ndim - 1, out_sharding=sharding)
    _, order = lax.sort_key_val(places, counts)
    d = x.ndim - 2
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(d + 1,),
        collapsed_slice_dims=(d,),
        start_index_map=(d,),
        operand_batching_dims=tuple(range(d)),
        start_indices_batching_dims=tuple(range(d)),
    )
    sizes = (1,) * (d + 1) + x.shape[-1:]
    return lax.gather(x, lax.expand_dims(order, [-1]), numbers, sizes, unique_indices=True, mode="promise_in_bounds")


def put_columns(x, places):
    """The matrix whose column places[j] is column j of x."""
    return transpose(put_rows(transpose(x), places))


def solve_adjoint(a, b) -> Any:
    """a⁻ᴴ b, by a[p] = l u: a⁻ᴴ = pᵀ l⁻ᴴ u⁻ᴴ."""
    factors, _, places = lax.linalg.lu(a)
    along = dict(left_side=True, transpose_a=True, conjugate_a=True)
    b = triangular_solve(factors, b, lower=False, **along)
    b = triangular_solve(factors, b, lower=True, unit_diagonal=True, **along)
    return put_rows(b, places)

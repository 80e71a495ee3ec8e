"""Reductions over axes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad import _jax
from funcgrad.rules.control.rewriting import Recompute
from funcgrad.rules.cumulative import running
from funcgrad.rules.numbers import full_like
from funcgrad.rules.rule import formula, no_derivative


def spread(ct, aval, axes):
    """The cotangent of what was reduced over ``axes``, repeated along them."""
    return repeated(ct, aval, axes, _jax.ct_sharding(aval))


def repeated(x, aval, axes, sharding):
    kept = tuple([d for d in range(len(aval.shape)) if d not in axes])
    return lax.broadcast_in_dim_p.bind(x, shape=aval.shape, broadcast_dimensions=kept, sharding=sharding)


def chosen(x, out, x_aval, *, axes):
    """Where the extremum is attained."""
    return lax.eq(x, repeated(out, x_aval, axes, _jax.explicit_sharding(x_aval)))


def choose(ct, mask, x_aval, *, axes):
    """Equal shares for all places that attain the extremum."""
    count = lax.reduce_sum(lax.convert_element_type(mask, ct.dtype), axes)
    ct = spread(lax.div(ct, count), x_aval, axes)
    return lax.select(mask, ct, full_like(ct, 0))


# Products. A factor's cotangent is ct times all other factors, found without dividing by it: the first half of an axis
# is multiplied by the second, the cotangent of those products is found in the same way, and each half is the other's
# factor. An axis that is open has no halves: there the factors before and those after each are multiplied up.


def multiply_others(ct, x, *, axes):
    """ct times the product of all other factors."""
    if x.size == 0:
        return full_like(x, 0)
    axis = next((d for d in axes if x.shape[d] != 1), None)
    if axis is None:
        return lax.expand_dims(ct, axes)
    if not isinstance(x.shape[axis], int):
        products, before, after = around(x, axis)
        return lax.mul(multiply_others(ct, products, axes=axes), lax.mul(before, after))
    first, second, *odd = halves(x, axis)
    ct = multiply_others(ct, lax.concatenate([lax.mul(first, second), *odd], axis), axes=axes)
    ct, *odd = lax.split(ct, [first.shape[axis], *[1] * len(odd)], axis)
    return lax.concatenate([lax.mul(ct, second), lax.mul(ct, first), *odd], axis)


def around(x, axis):
    """The product along an axis, and at each entry of it those of the entries before and after."""

    def step(product, factor):
        return lax.mul(product, factor), product

    factors = jnp.moveaxis(x, axis, 0)
    ones = full_like(factors[0], 1)
    product, before = lax.scan(step, ones, factors)
    _, after = lax.scan(step, ones, factors, reverse=True)
    return lax.expand_dims(product, [axis]), jnp.moveaxis(before, 0, axis), jnp.moveaxis(after, 0, axis)


def halves(x, axis):
    """Two halves of an axis, and what is left of an odd number of entries."""
    n = x.shape[axis]
    return lax.split(x, [n // 2, n // 2, *[1] * (n % 2)], axis)


# Reductions by any function: combine halves until one entry is left, and that with the initial value. Along an axis
# that is open the entries are combined one after the other.


def reduce_by_halves(*operands, computation, jaxpr, dimensions):
    xs, starts = operands[: len(operands) // 2], operands[len(operands) // 2 :]
    combine = elementwise(jaxpr.jaxpr, jaxpr.consts)
    shape = [n for d, n in enumerate(xs[0].shape) if d not in dimensions]
    starts = tuple([lax.broadcast(start, shape) for start in starts])
    for axis in dimensions:
        if xs[0].shape[axis] == 0:
            return starts
        if not isinstance(xs[0].shape[axis], int):
            ends = running(lambda a, b: tuple(combine(*a, *b)), tuple(xs), axis)
            xs = tuple([lax.index_in_dim(x, -1, axis) for x in ends])
        while xs[0].shape[axis] > 1:
            firsts, seconds, *odd = zip(*(halves(x, axis) for x in xs), strict=True)
            pieces = zip(combine(*firsts, *seconds), *odd, strict=True)
            xs = tuple([lax.concatenate(parts, axis) for parts in pieces])
    return combine(*starts, *(lax.squeeze(x, dimensions) for x in xs))


def elementwise(jaxpr, consts):
    """A function of scalars, given as a jaxpr, over arrays of one shape."""

    def mapped(*xs):
        shape = xs[0].shape
        function = jax.vmap(lambda *entries: _jax.eval_jaxpr(jaxpr, consts, *entries))
        return [lax.reshape(out, shape) for out in function(*(lax.reshape(x, [math.prod(shape)]) for x in xs))]

    return mapped


rules = {
    lax.reduce_sum_p: formula(lambda ct, x_aval, *, axes: spread(ct, x_aval, axes)),
    lax.reduce_prod_p: formula(multiply_others),
    lax.reduce_p: Recompute(reduce_by_halves),
    lax.reduce_max_p: formula(choose, mask=chosen),
    lax.reduce_min_p: formula(choose, mask=chosen),
    **dict.fromkeys([lax.argmax_p, lax.argmin_p, lax.reduce_and_p, lax.reduce_or_p, lax.reduce_xor_p], no_derivative),
}

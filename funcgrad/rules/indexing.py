"""Slices, updates of slices, gathers and scatters.

A scatter writes windows of an operand (operand 0), at indices (operand 1), from updates (operand 2): it replaces, adds,
multiplies, or takes the smaller or larger. The gather that reads those windows is what takes a cotangent back to the
updates.
"""

from __future__ import annotations

import math

import numpy as np
from jax import lax

from funcgrad._jax import set_current_trace
from funcgrad.rules.control.rewriting import Recompute
from funcgrad.rules.numbers import const, counting, extent, full_like, nonzero, zeros_for
from funcgrad.rules.rule import Formula, formula, joint
from funcgrad.rules.signature import typeof_or_zero


def unslice(ct, x_aval, *, start_indices, limit_indices, strides):
    """Put the cotangent back where it was taken from, zeros elsewhere."""
    strides = strides or (1,) * len(x_aval.shape)
    config = []
    for size, start, stride, taken in zip(x_aval.shape, start_indices, strides, ct.shape, strict=True):
        config.append((start, size - start - extent(taken, stride), stride - 1))
    return lax.pad(ct, const(ct, 0), config)


# A dynamic slice and its transpose, an update of zeros, clamp their starts alike. The starts are the only residuals.


def dynamic_slice(ct, starts, x_aval):
    zeros = zeros_for(ct, x_aval)
    return [lax.dynamic_update_slice_p.bind(zeros, ct, *starts)] + [None] * len(starts)


def dynamic_update_slice(ct, starts, y_aval, active):
    """What was overwritten gets nothing; the update gets the slice it was written to."""
    x_ct = y_ct = None
    if active[0]:
        x_ct = lax.dynamic_update_slice_p.bind(ct, zeros_for(ct, y_aval), *starts)
    if active[1]:
        y_ct = lax.dynamic_slice_p.bind(ct, *starts, slice_sizes=y_aval.shape)
    return [x_ct, y_ct] + [None] * len(starts)


def gather(ct, y, x_aval, *, dimension_numbers, indices_are_sorted, unique_indices, mode):
    """Scatter-add into zeros, at the indices that were read."""
    return lax.scatter_add(
        zeros_for(ct, x_aval),
        y,
        ct,
        scatter_numbers(dimension_numbers),
        indices_are_sorted=indices_are_sorted,
        unique_indices=unique_indices,
        mode=mode,
    )


def scatter_numbers(numbers: lax.GatherDimensionNumbers) -> lax.ScatterDimensionNumbers:
    """The scatter that writes where a gather reads."""
    return lax.ScatterDimensionNumbers(
        update_window_dims=numbers.offset_dims,
        inserted_window_dims=numbers.collapsed_slice_dims,
        scatter_dims_to_operand_dims=numbers.start_index_map,
        operand_batching_dims=numbers.operand_batching_dims,
        scatter_indices_batching_dims=numbers.start_indices_batching_dims,
    )


# Scatters.

PLACE = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")


def place(params):
    """The parameters that say where a scatter writes, without what it does there."""
    return {name: params[name] for name in PLACE}


def read(ct, y, z_aval, *, dimension_numbers, indices_are_sorted, unique_indices, mode, **_):
    """The windows of ``ct`` at the indices ``y``, where updates of type ``z_aval`` go; zeros for those dropped."""
    n = dimension_numbers
    sizes = iter([z_aval.shape[d] for d in n.update_window_dims])
    single = {*n.inserted_window_dims, *n.operand_batching_dims}
    numbers = lax.GatherDimensionNumbers(
        offset_dims=n.update_window_dims,
        collapsed_slice_dims=n.inserted_window_dims,
        start_index_map=n.scatter_dims_to_operand_dims,
        operand_batching_dims=n.operand_batching_dims,
        start_indices_batching_dims=n.scatter_indices_batching_dims,
    )
    return lax.gather(
        ct,
        y,
        numbers,
        [1 if d in single else next(sizes) for d in range(ct.ndim)],
        indices_are_sorted=indices_are_sorted,
        unique_indices=unique_indices,
        mode=mode,
        fill_value=0,
    )


# Multiplying. With repeated indices an update of a product has the product of the others for a slope. It is found
# without dividing by what may be zero: updates are sorted by the entry they go to, and each group is multiplied.


def multiplied_in_groups(x, indices, z, **params):
    """The scatter as the operand times the product, at each of its entries, of the updates that go there."""
    count = math.prod(z.shape)
    if not count or not x.size:
        return [x]
    dtype = np.int32 if x.size + count < np.iinfo(np.int32).max else np.int64
    entries = lax.add(lax.reshape(lax.iota(dtype, x.size), x.shape), lax.full(x.shape, 1, dtype))
    goals = lax.reshape(read(entries, indices, z, **params), [count])
    goals, z = lax.sort((goals, lax.reshape(z, [count])), num_keys=1)
    changes, outside = lax.ne(goals[1:], goals[:-1]), lax.full((1,), True)
    starts, ends = lax.concatenate([outside, changes], 0), lax.concatenate([changes, outside], 0)

    def combine(before, after):
        (some, product), (starts, other) = before, after
        return lax.bitwise_or(some, starts), lax.select(starts, other, lax.mul(product, other))

    products = lax.associative_scan(combine, (starts, z))[1]
    nowhere = lax.add(lax.iota(dtype, count), lax.full((count,), x.size + 1, dtype))
    goals = lax.expand_dims(lax.select(ends, goals, nowhere), [1])
    numbers = lax.ScatterDimensionNumbers((), (0,), (0,))
    ones, how = lax.full((x.size + 1,), 1, x.dtype), lax.GatherScatterMode.FILL_OR_DROP
    factors = lax.scatter(ones, goals, products, numbers, unique_indices=True, mode=how)
    # Updates that are dropped go to an entry before the first.
    return [lax.mul(x, lax.reshape(factors[1:], x.shape))]


in_groups = Recompute(multiplied_in_groups)


class ScatterMul(Formula):
    """Formulas where no two updates meet, products of groups of updates where some may."""

    def record(self, tape, primitive, primals, tracers, params, linear):
        if tracers[2] is None or not some_meet(typeof_or_zero(primals[2]), **params):
            return super().record(tape, primitive, primals, tracers, params, linear)
        return in_groups.record(tape, primitive, primals, tracers, params, linear)


# Replacing. Where indices repeat it is not specified which update wins, so numbers are scattered to find the winners,
# and both the value and the derivatives are made from these.


def overwrite(ct, y, z_aval, **params):
    return lax.scatter(ct, y, zeros_for(ct, z_aval), **place(params))


def replace_by_winners(x, indices, z, **params):
    """The scatter as a sum of the operand's entries that stay and the updates that win."""
    numbers = numbered(z, **params)
    written = lax.scatter(lax.full_like(x, 0, numbers.dtype), indices, numbers, **place(params))
    stays = lax.eq(written, const(written, 0))
    wins = lax.eq(numbers, read(written, indices, z, **params))
    x, z = lax.select(stays, x, full_like(x, 0)), lax.select(wins, z, full_like(z, 0))
    return lax.scatter_add(x, indices, z, **place(params))


def numbered(z, *, dimension_numbers, **_):
    """The number of each window of the updates, from one, in all its entries."""
    shape = [1 if d in dimension_numbers.update_window_dims else n for d, n in enumerate(z.shape)]
    count = math.prod(shape)
    dtype = counting(count, np.uint32, np.uint64)
    return lax.add(lax.reshape(lax.iota(dtype, count), shape), lax.full_like(z, 1, dtype))


class Scatter(Formula):
    """Formulas where no two updates meet, a sum of winners where some may."""

    def record(self, tape, primitive, primals, tracers, params, linear):
        if params["update_jaxpr"] is not None:
            raise NotImplementedError(
                "x.at[i].apply(f) (lax.scatter_apply) has no derivative rule; write x.at[i].set(f(x[i])) instead"
            )
        if tracers[2] is None or not some_meet(typeof_or_zero(primals[2]), **params):
            return super().record(tape, primitive, primals, tracers, params, linear)
        with set_current_trace(tape):
            return replace_by_winners(*[x if t is None else t for x, t in zip(primals, tracers, strict=True)], **params)


def some_meet(z_aval, *, dimension_numbers, unique_indices, **_) -> bool:
    """Whether two windows of the updates may have an entry in common: one window meets no other."""
    windows = [n for d, n in enumerate(z_aval.shape) if d not in dimension_numbers.update_window_dims]
    return not unique_indices and any(n != 1 for n in windows)


# The larger or the smaller. Whoever attains the extremum, the old value included, has an equal share in its cotangent.


def attained(x, y, z, out, **params):
    """At each update: how many attain the extremum, and whether the old value and the update are among them."""
    extremum, old = read(out, y, z, **params), read(x, y, z, **params)
    x_wins, z_wins = lax.eq(old, extremum), lax.eq(z, extremum)
    count = lax.convert_element_type(z_wins, x.dtype)
    if some_meet(z, **params):
        count = read(lax.scatter_add(full_like(x, 0), y, count, **place(params)), y, z, **params)
    count = lax.add(count, lax.convert_element_type(x_wins, x.dtype))
    return lax.max(count, const(count, 1)), x_wins, z_wins


def choose(ct, y, z_aval, winners, active, **params):
    """An equal share of ct for all who attain the extremum."""
    count, x_wins, z_wins = winners
    x_ct = z_ct = None
    if active[0]:
        # What ct is divided by is scattered, not ct: that is linear in it.
        divisors = lax.select(x_wins, count, full_like(count, 0))
        if some_meet(z_aval, **params):
            # Updates that meet write the same number.
            divisors = lax.scatter(full_like(ct, 1), y, divisors, **place(params))
            x_ct = lax.select(lax.eq(divisors, const(divisors, 0)), full_like(ct, 0), lax.div(ct, nonzero(divisors)))
        else:
            shares = lax.select(x_wins, lax.integer_pow(count, -1), divisors)
            x_ct = lax.scatter_mul(ct, y, shares, **{**place(params), "unique_indices": True})
    if active[2]:
        share = lax.div(read(ct, y, z_aval, **params), count)
        z_ct = lax.select(z_wins, share, full_like(share, 0))
    return [x_ct, None, z_ct]


rules = {
    lax.slice_p: formula(unslice),
    lax.dynamic_slice_p: joint(dynamic_slice, starts=lambda xs: xs[1:]),
    lax.dynamic_update_slice_p: joint(dynamic_update_slice, starts=lambda xs: xs[2:]),
    lax.gather_p: formula(gather),
    lax.scatter_p: Scatter([overwrite, None, read], {}, broadcasts=False),
    lax.scatter_add_p: formula(lambda ct: ct, None, read),
    lax.scatter_sub_p: formula(
        lambda ct: ct, None, lambda ct, y, z_aval, **params: lax.neg(read(ct, y, z_aval, **params))
    ),
    lax.scatter_mul_p: ScatterMul(
        [
            lambda ct, y, z, **params: lax.scatter_mul(ct, y, z, **place(params)),
            None,
            lambda ct, y, z_aval, multiplied, **params: lax.mul(read(ct, y, z_aval, **params), multiplied),
        ],
        {"multiplied": lambda x, y, z_aval, **params: read(x, y, z_aval, **params)},
        broadcasts=False,
    ),
    lax.scatter_min_p: joint(choose, winners=attained),
    lax.scatter_max_p: joint(choose, winners=attained),
}

"""Primitives that move numbers and change none: reshape, transpose, broadcast, pad, concatenate, split, select."""

from __future__ import annotations

import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad.rules.numbers import const, full_like, inverse, reshaped, reshaped_to, summed, transposed
from funcgrad.rules.rule import formula, joint, no_derivative


def unreshape(ct, x_aval, *, dimensions):
    """ct in the shape of x, with dimensions in x's order."""
    if dimensions is None:
        return reshaped(ct, x_aval)
    shape, sharding = [x_aval.shape[d] for d in dimensions], _jax.with_dimensions(_jax.ct_sharding(x_aval), dimensions)
    return transposed(reshaped_to(ct, shape, sharding), inverse(dimensions))


def unbroadcast_in_dim(ct, x_aval, *, shape, broadcast_dimensions):
    """Sum over the dimensions that were added or stretched."""
    stretched = [d for d, n in zip(broadcast_dimensions, x_aval.shape, strict=True) if n == 1 and shape[d] != 1]
    axes = [d for d in range(len(shape)) if d not in broadcast_dimensions or d in stretched]
    kept = [d for d in range(len(x_aval.shape)) if broadcast_dimensions[d] not in stretched]
    sharding = _jax.with_dimensions(_jax.ct_sharding(x_aval), kept)
    ct = summed(ct, axes, sharding) if axes else ct
    return reshaped(ct, x_aval) if stretched else ct


def untile(ct, x_aval, *, reps):
    """The sum over the copies."""
    pairs = [k for pair in zip(reps, x_aval.shape, strict=True) for k in pair]
    sharding = _jax.with_dimensions(_jax.ct_sharding(x_aval), [k for d in range(len(reps)) for k in (None, d)])
    return summed(reshaped_to(ct, pairs, sharding), range(0, len(pairs), 2))


def unpad(ct, *, padding_config):
    """What lies inside of the padding."""
    low, high, interior = zip(*padding_config, strict=True) if padding_config else ((), (), ())
    removed = lax.pad(ct, const(ct, 0), [(-lo, -hi, 0) for lo, hi in zip(low, high, strict=True)])
    return lax.slice(removed, [0] * removed.ndim, removed.shape, [n + 1 for n in interior])


def pad(ct, active, *, padding_config):
    inside = unpad(ct, padding_config=padding_config)
    axes = range(ct.ndim)
    value_ct = lax.sub(lax.reduce_sum(ct, axes), lax.reduce_sum(inside, axes)) if active[1] else None
    return inside, value_ct


def concatenate(ct, avals, *, dimension):
    """ct, split where the operands were joined."""
    return lax.split(ct, [aval.shape[dimension] for aval in avals], axis=dimension)


def split(cts, out_avals, *, axis):
    return [lax.concatenate(instantiated(cts, out_avals), axis)]


def instantiated(cts, avals):
    """Cotangents with zeros made explicit."""
    return [_jax.zeros(aval.to_ct_aval()) if ct is None else ct for ct, aval in zip(cts, avals, strict=True)]


def select_n(ct, x, active):
    """The cotangent goes to the case that was chosen, by operand 0."""
    zero = full_like(ct, 0)
    cts: list = [None]
    for case, is_active in enumerate(active[1:]):
        if not is_active:
            cts.append(None)
        elif x.dtype == np.bool_:
            cts.append(lax.select(x, ct, zero) if case else lax.select(x, zero, ct))
        else:
            cts.append(lax.select(lax.eq(x, const(x, case)), ct, zero))
    return cts


rules = {
    lax.reshape_p: formula(unreshape),
    lax.squeeze_p: formula(lambda ct, *, dimensions: lax.expand_dims(ct, dimensions)),
    lax.transpose_p: formula(lambda ct, *, permutation: transposed(ct, inverse(permutation))),
    lax.rev_p: formula(lambda ct, *, dimensions: lax.rev(ct, dimensions)),
    lax.broadcast_in_dim_p: formula(unbroadcast_in_dim),
    lax.tile_p: formula(untile),
    lax.pad_p: joint(pad),
    lax.concatenate_p: joint(concatenate),
    lax.split_p: joint(split),
    lax.stack_p: joint(lambda ct, *, axis: lax.unstack_p.bind(ct, axis=axis)),
    lax.unstack_p: joint(lambda cts, out_avals, *, axis: [lax.stack_p.bind(*instantiated(cts, out_avals), axis=axis)]),
    lax.select_n_p: joint(select_n),
    lax.optimization_barrier_p: joint(lambda cts, out_avals: lax.optimization_barrier(instantiated(cts, out_avals))),
    _jax.name_p: formula(lambda ct: ct),
    lax.iota_p: no_derivative,
}

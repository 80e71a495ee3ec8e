"""Collectives: the pullback of each is another collective.

Two conventions meet here. Where replication is part of types (``shard_map`` with ``check_vma``), a sum over devices
takes a varying value to an invariant one and its pullback is the cast back, ``pvary``; and the other way round.
Without, ``psum`` means a sum followed by a broadcast, so its pullback is ``psum``.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from funcgrad import _jax
from funcgrad.rules.numbers import full_like, zeros_for
from funcgrad.rules.reductions import spread
from funcgrad.rules.rule import formula, joint, no_derivative


def psum(ct, x_aval, *, axes, axis_index_groups):
    """The sum of ct over the devices; for positional axes, those of an array, ct repeated along them."""
    positional = [axis for axis in axes if isinstance(axis, int)]
    named = tuple([axis for axis in axes if not isinstance(axis, int)])
    if positional:
        ct = spread(ct, x_aval, positional)
    return lax.psum_p.bind(ct, axes=named, axis_index_groups=axis_index_groups)


def permute_back(ct, *, perm, axis_name):
    """ct, sent back to where the operand came from."""
    return lax.ppermute(ct, axis_name, [(there, here) for here, there in perm])


def gather_to_source(ct, *, axis_name, source):
    """The device whose value was broadcast gets the sum of all cotangents."""
    total = lax.psum(ct, axis_name)
    return lax.select(lax.axis_index(axis_name) == source, total, full_like(total, 0))


def all_to_all(ct, *, split_axis, concat_axis, **params):
    # Bound, not called: for the primitive the axis that is split stays, with size 1, also where it is not tiled.
    return lax.all_to_all_p.bind(ct, split_axis=concat_axis, concat_axis=split_axis, **params)


def scatter_sum(ct, *, all_gather_dimension, axis_name, axis_index_groups, axis_size, tiled):
    return lax.psum_scatter(
        ct, axis_name, scatter_dimension=all_gather_dimension, axis_index_groups=axis_index_groups, tiled=tiled
    )


def gather(ct, *, axis_name, scatter_dimension, axis_index_groups, axis_size, tiled):
    return lax.all_gather(ct, axis_name, axis_index_groups=axis_index_groups, axis=scatter_dimension, tiled=tiled)


def own_part(ct, *, all_gather_dimension, axis_name, axis_size, tiled):
    """The part of ct that is the device's own."""
    size = ct.shape[all_gather_dimension] // axis_size
    part = lax.dynamic_slice_in_dim(ct, lax.axis_index(axis_name) * size, size, all_gather_dimension)
    return part if tiled else lax.squeeze(part, [all_gather_dimension])


def ragged_all_to_all(ct, pieces, x_aval, active, *, axis_name, axis_index_groups):
    """Send the pieces back where they came from; what they were written over gets the rest of the cotangent."""
    input_offsets, send_sizes, output_offsets, recv_sizes = pieces

    def exchange(offsets):
        return lax.all_to_all(offsets, axis_name, 0, 0, tiled=True)

    sent_to, came_from = exchange(output_offsets), exchange(input_offsets)
    operand_ct = output_ct = None
    if active[0]:
        operand_ct = _jax.ragged_all_to_all_p.bind(
            ct,
            zeros_for(ct, x_aval),
            sent_to,
            recv_sizes,
            came_from,
            send_sizes,
            axis_name=axis_name,
            axis_index_groups=axis_index_groups,
        )
    if active[1]:
        edges = jnp.zeros(ct.shape[0], jnp.int32).at[sent_to].set(1).at[sent_to + recv_sizes].add(-1)
        written = lax.broadcast_in_dim(lax.cumsum(edges) > 0, ct.shape, [0])
        output_ct = lax.select(written, full_like(ct, 0), ct)
    return operand_ct, output_ct, None, None, None, None


rules = {
    lax.psum_p: formula(psum),
    lax.ppermute_p: formula(permute_back),
    _jax.pbroadcast_p: formula(gather_to_source),
    lax.all_to_all_p: formula(all_to_all),
    lax.all_gather_p: formula(scatter_sum),
    _jax.reduce_scatter_p: formula(gather),
    _jax.ragged_all_to_all_p: joint(ragged_all_to_all, pieces=lambda xs: xs[2:]),
    lax.axis_index_p: no_derivative,
    # Types that track replication.
    _jax.psum_invariant_p: formula(lambda ct, *, axes: _jax.pvary(ct, axes)),
    _jax.pvary_p: formula(lambda ct, *, axes: _jax.psum_invariant_p.bind(ct, axes=axes)),
    _jax.all_gather_invariant_p: formula(own_part),
    # Types that track reduction: unreduced values are summands, reduced ones have unreduced cotangents.
    _jax.all_gather_reduced_p: formula(
        lambda ct, *, all_gather_dimension, axis_name, axis_size, tiled: _jax.unreduced_psum_scatter(
            ct, axis_name=axis_name, scatter_dimension=all_gather_dimension, tiled=tiled
        )
    ),
    _jax.unreduced_reduce_scatter_p: formula(
        lambda ct, *, axis_name, scatter_dimension, axis_size, tiled: _jax.all_gather_reduced(
            ct, axis_name=axis_name, axis=scatter_dimension, tiled=tiled
        )
    ),
    _jax.unreduced_psum_p: formula(lambda ct, *, axes: _jax.preduced(ct, axis_name=axes)),
    _jax.preduced_p: formula(lambda ct, *, axes: _jax.unreduced_psum(ct, axis_name=axes)),
    _jax.vary_unreduced_cast_p: formula(lambda ct, *, axes: _jax.reduced_vary_cast(ct, axis_name=axes)),
    _jax.reduced_vary_cast_p: formula(lambda ct, *, axes: _jax.vary_unreduced_cast(ct, axis_name=axes)),
}

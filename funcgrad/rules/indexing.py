"""Slices, updates of slices, and gathers. Scatters are next door, in ``scatters``."""

from __future__ import annotations

from jax import lax

from funcgrad import _jax
from funcgrad.rules.numbers import const
from funcgrad.rules.rule import formula, joint


def unslice(ct, x_aval, *, start_indices, limit_indices, strides):
    """Put the cotangent back where it was taken from, zeros elsewhere."""
    strides = strides or (1,) * len(x_aval.shape)
    config = []
    for size, start, stride, taken in zip(x_aval.shape, start_indices, strides, ct.shape, strict=True):
        end = start + (taken - 1) * stride + 1 if taken else start
        config.append((start, size - end, stride - 1))
    return lax.pad(ct, const(ct, 0), config)


# A dynamic slice and its transpose, an update of zeros, clamp their starts alike. The starts are the only residuals.


def dynamic_slice(ct, starts, x_aval):
    zeros = _jax.zeros(x_aval.to_ct_aval())
    return [lax.dynamic_update_slice_p.bind(zeros, ct, *starts)] + [None] * len(starts)


def dynamic_update_slice(ct, starts, y_aval, active):
    """What was overwritten gets nothing; the update gets the slice it was written to."""
    x_ct = y_ct = None
    if active[0]:
        x_ct = lax.dynamic_update_slice_p.bind(ct, _jax.zeros(y_aval.to_ct_aval()), *starts)
    if active[1]:
        y_ct = lax.dynamic_slice_p.bind(ct, *starts, slice_sizes=y_aval.shape)
    return [x_ct, y_ct] + [None] * len(starts)


def gather(ct, y, x_aval, *, dimension_numbers, indices_are_sorted, unique_indices, mode):
    """Scatter-add into zeros, at the indices that were read."""
    return lax.scatter_add(
        _jax.zeros(x_aval.to_ct_aval()),
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


rules = {
    lax.slice_p: formula(unslice),
    lax.dynamic_slice_p: joint(dynamic_slice, starts=lambda xs: xs[1:]),
    lax.dynamic_update_slice_p: joint(dynamic_update_slice, starts=lambda xs: xs[2:]),
    lax.gather_p: formula(gather),
}

"""Convolutions.

With the spatial dimensions left out, a convolution contracts [batch, in] with [out, in] to [batch, out]; in ``groups``
of features, [batch, g*in] with [g*out, in] to [batch, g*out], or of the batch, [g*batch, in] with [g*out, in] to
[batch, g*out]. The cotangents are such contractions too: for the operand, of ct with the kernel over ``out``, for the
kernel, of ct with the operand over ``batch``. In space the operand's is a convolution with the mirrored kernel, and
strides and dilations change places.
"""

from __future__ import annotations

from jax import lax

from funcgrad import _jax
from funcgrad.programs.platform import on_cpu
from funcgrad.rules.numbers import convert, extent
from funcgrad.rules.rule import formula


def operand_ct(ct, y, x_aval, *, dimension_numbers, feature_group_count, batch_group_count, **how):
    """ct convolved with the mirrored kernel, strides and dilations exchanged."""
    lhs, rhs, out = dimension_numbers
    groups = max(feature_group_count, batch_group_count)
    kernel = lax.rev(convert(y, ct), rhs[2:])
    if groups > 1:
        kernel = move_groups(kernel, groups, rhs[0], rhs[1])
    pads = [(k - 1 - low, n + low - m) for n, k, m, low in extents(x_aval, y, ct, dimension_numbers, **how)]
    steps = how["lhs_dilation"], how["window_strides"], how["rhs_dilation"]
    x_ct = convolved(ct, kernel, x_aval, steps, pads, (out, swapped(rhs), lhs), (groups, 1), **how)
    if batch_group_count > 1:
        x_ct = move_groups(x_ct, groups, lhs[1], lhs[0])
    return convert(x_ct, x_aval)


def kernel_ct(ct, x, y_aval, *, dimension_numbers, feature_group_count, batch_group_count, **how):
    """The operand convolved with ct, as if the batch were the features; strides and dilations exchanged."""
    if ct.size == 0:
        return None
    lhs, rhs, out = dimension_numbers
    # What was grouped by features is grouped by batch here, and the other way around.
    feature_group_count, batch_group_count = batch_group_count, feature_group_count
    pads = [(low, k + m - n - low - 1) for n, k, m, low in extents(x, y_aval, ct, dimension_numbers, **how)]
    steps = how["rhs_dilation"], how["lhs_dilation"], how["window_strides"]
    numbers = swapped(lhs), swapped(out), swapped(rhs)

    def by_batch(x, ct):
        return convolved(x, ct, y_aval, steps, pads, numbers, (feature_group_count, batch_group_count), **how)

    def by_features(x, ct):
        x = move_groups(x, batch_group_count, lhs[1], lhs[0])
        return convolved(x, ct, y_aval, steps, pads, numbers, (batch_group_count, 1), **how)

    x = convert(x, ct)
    if batch_group_count > 1:
        # XLA's CPU compiler takes 100 times as long over groups of a batch as over groups of features.
        return convert(on_cpu(by_features, by_batch, x, ct), y_aval)
    return convert(by_batch(x, ct), y_aval)


def extents(x, y, ct, numbers, *, window_strides, padding, lhs_dilation, rhs_dilation, **_):
    """In each dimension of space the lengths of operand, kernel and ct, dilated, and the padding before the operand."""
    lengths = [[a.shape[d] for d in spec[2:]] for a, spec in zip((x, y, ct), numbers, strict=True)]
    steps = lhs_dilation, rhs_dilation, window_strides
    dilated = [map(extent, n, step) for n, step in zip(lengths, steps, strict=True)]
    return zip(*dilated, [low for low, _ in padding], strict=True)


def convolved(x, y, aval, steps, pads, numbers, groups, *, precision, preferred_element_type, **_):
    """A convolution to the type of ``aval``; ``steps`` are its strides and the dilations of ``x`` and ``y``."""
    strides, x_dilation, y_dilation = steps
    return lax.conv_general_dilated(
        x,
        y,
        window_strides=strides,
        padding=pads,
        lhs_dilation=x_dilation,
        rhs_dilation=y_dilation,
        dimension_numbers=lax.ConvDimensionNumbers(*numbers),
        feature_group_count=groups[0],
        batch_group_count=groups[1],
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=_jax.ct_sharding(aval),
    )


def swapped(spec):
    return (spec[1], spec[0], *spec[2:])


def move_groups(x, groups, source, target):
    """Move a factor ``groups`` of the length of one dimension to another; it is the slower-moving factor of both."""
    shape = list(x.shape)
    x = lax.reshape(x, [*shape[:source], groups, shape[source] // groups, *shape[source + 1 :]])
    # The groups are at ``source`` now, and what was behind it is one further on.
    others = [d for d in range(x.ndim) if d != source]
    x = lax.transpose(x, [*others[:target], source, *others[target:]])
    shape[source] //= groups
    shape[target] *= groups
    return lax.reshape(x, shape)


rules = {lax.conv_general_dilated_p: formula(operand_ct, kernel_ct)}

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
from funcgrad.rules.numbers import convert
from funcgrad.rules.rule import formula
from funcgrad.rules.windows import extent


def operand_ct(
    ct, y, x_aval, *, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count,
    batch_group_count, precision, preferred_element_type,
):  # fmt: skip
    """ct convolved with the mirrored kernel, strides and dilations exchanged."""
    lhs, rhs, out = dimension_numbers
    groups = max(feature_group_count, batch_group_count)
    kernel = lax.rev(convert(y, ct), rhs[2:])
    if groups > 1:
        kernel = move_groups(kernel, groups, rhs[0], rhs[1])
    config = []
    for n, k, m, (low, _), stride, base, dilation in zip(
        sizes(x_aval, lhs),
        sizes(y, rhs),
        sizes(ct, out),
        padding,
        window_strides,
        lhs_dilation,
        rhs_dilation,
        strict=True,
    ):
        before = extent(k, dilation) - 1 - low
        config.append((before, extent(n, base) + low - extent(m, stride)))
    x_ct = lax.conv_general_dilated(
        ct,
        kernel,
        window_strides=lhs_dilation,
        padding=config,
        lhs_dilation=window_strides,
        rhs_dilation=rhs_dilation,
        dimension_numbers=lax.ConvDimensionNumbers(out, swapped(rhs), lhs),
        feature_group_count=groups,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=_jax.explicit_sharding(x_aval),
    )
    if batch_group_count > 1:
        x_ct = move_groups(x_ct, groups, lhs[1], lhs[0])
    return convert(x_ct, x_aval)


def kernel_ct(
    ct, x, y_aval, *, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count,
    batch_group_count, precision, preferred_element_type,
):  # fmt: skip
    """The operand convolved with ct, as if the batch were the features; strides and dilations exchanged."""
    if ct.size == 0:
        return None
    lhs, rhs, out = dimension_numbers
    # What was grouped by features is grouped by batch here, and the other way around.
    feature_group_count, batch_group_count = batch_group_count, feature_group_count
    config = []
    for n, k, m, (low, _), stride, base, dilation in zip(
        sizes(x, lhs),
        sizes(y_aval, rhs),
        sizes(ct, out),
        padding,
        window_strides,
        lhs_dilation,
        rhs_dilation,
        strict=True,
    ):
        config.append((low, extent(k, dilation) + extent(m, stride) - extent(n, base) - low - 1))

    def convolved(x, ct, feature_groups=feature_group_count, batch_groups=batch_group_count):
        return lax.conv_general_dilated(
            x,
            ct,
            window_strides=rhs_dilation,
            padding=config,
            lhs_dilation=lhs_dilation,
            rhs_dilation=window_strides,
            dimension_numbers=lax.ConvDimensionNumbers(swapped(lhs), swapped(out), swapped(rhs)),
            feature_group_count=feature_groups,
            batch_group_count=batch_groups,
            precision=precision,
            preferred_element_type=preferred_element_type,
            out_sharding=_jax.explicit_sharding(y_aval),
        )

    def by_features(x, ct):
        return convolved(move_groups(x, batch_group_count, lhs[1], lhs[0]), ct, batch_group_count, 1)

    x = convert(x, ct)
    if batch_group_count > 1:
        # XLA's CPU compiler takes 100 times as long over groups of a batch as over groups of features.
        return convert(on_cpu(by_features, convolved, x, ct), y_aval)
    return convert(convolved(x, ct), y_aval)


def swapped(spec):
    return (spec[1], spec[0], *spec[2:])


def sizes(x, spec):
    """The spatial sizes of ``x`` in the order of the windows' parameters."""
    return [x.shape[d] for d in spec[2:]]


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

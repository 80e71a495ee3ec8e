"""Contractions, plain and ragged."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad.rules.numbers import convert, inverse, transposed
from funcgrad.rules.rule import formula


def contract_with_rhs(ct, y, x_aval, *, dimension_numbers, precision, preferred_element_type):
    """The left operand's cotangent: contract ct with the right operand over the dimensions only the latter keeps.

    The output's dimensions are the batch, then what the left keeps, then what the right keeps.
    """
    (x_contract, y_contract), (x_batch, y_batch) = dimension_numbers
    x_kept = remaining(x_aval.ndim, x_contract, x_batch)
    y_kept = remaining(y.ndim, y_contract, y_batch)
    after_x = len(x_batch) + len(x_kept)
    numbers = ((tuple(range(after_x, after_x + len(y_kept))), y_kept), (tuple(range(len(x_batch))), y_batch))
    # The result has the batch, x's kept dimensions, and x's contracted ones in the order of y's.
    order = [*x_batch, *x_kept, *in_order_of(x_contract, y_contract)]
    return contract_back(ct, y, x_aval, numbers, order, precision, preferred_element_type)


def contract_with_lhs(ct, x, y_aval, *, dimension_numbers, precision, preferred_element_type):
    """The right operand's cotangent; the mirror image."""
    (x_contract, y_contract), (x_batch, y_batch) = dimension_numbers
    x_kept = remaining(x.ndim, x_contract, x_batch)
    y_kept = remaining(y_aval.ndim, y_contract, y_batch)
    after_batch = len(x_batch)
    numbers = ((tuple(range(after_batch, after_batch + len(x_kept))), x_kept), (tuple(range(after_batch)), x_batch))
    order = [*y_batch, *y_kept, *in_order_of(y_contract, x_contract)]
    return contract_back(ct, x, y_aval, numbers, order, precision, preferred_element_type)


def contract_back(ct, other, aval, numbers, order, precision, preferred_element_type):
    ct, other = _jax.auto_insert_reshard(ct, other)
    sharding = _jax.with_dimensions(_jax.ct_sharding(aval) or _jax.whole(ct, aval.ndim), order)
    out = lax.dot_general_p.bind(
        ct,
        other,
        dimension_numbers=numbers,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=sharding,
    )
    if order != sorted(order):
        out = transposed(out, inverse(order))
    return convert(out, aval)


def in_order_of(dims, keys):
    """``dims`` sorted by the ``keys`` they are paired with."""
    return [d for _, d in sorted(zip(keys, dims, strict=True))]


def remaining(ndim, contract, batch):
    return tuple([d for d in range(ndim) if d not in contract and d not in batch])


# Ragged contractions: one dimension of the left operand is cut into groups, of the sizes that operand 2 gives.
#
# Each group has its own right operand, [b, r, k], [g, b, k, n] -> [b, r, n], or its own output,
# [b, r, k], [b, r, n] -> [g, b, k, n]. The cotangents of either are such contractions too. So dimensions are given
# names, and a cotangent is the contraction of ct and the other operand to the names of its own.

GROUP = "group"


class Names(NamedTuple):
    """What the dimensions of the operands, the output and the sizes stand for, and which is ragged."""

    x: list
    y: list
    out: list
    sizes: list
    ragged: tuple

    @staticmethod
    def of(numbers: lax.RaggedDotDimensionNumbers, x_ndim: int, y_ndim: int) -> Names:
        (x_contract, y_contract), (x_batch, y_batch) = numbers.dot_dimension_numbers
        x: list = [("x", d) for d in range(x_ndim)]
        y: list = [("y", d) for d in range(y_ndim)]
        for x_dim, y_dim in zip([*x_contract, *x_batch], [*y_contract, *y_batch], strict=True):
            y[y_dim] = x[x_dim]
        for d in numbers.rhs_group_dimensions:
            y[d] = GROUP
        ragged = x[numbers.lhs_ragged_dimensions[0]]
        batch, contracted = [x[d] for d in x_batch], [x[d] for d in x_contract]
        x_kept, y_kept = [name for name in x if name not in y], [name for name in y if name not in [*x, GROUP]]
        # Sizes may differ along the batch and what comes before the ragged dimension among its like.
        like = next(names for names in (x_kept, contracted, batch) if ragged in names)
        before = like[: like.index(ragged)]
        sizes = before if like is batch else [*batch, *before]
        group = [GROUP] if like is contracted else []
        return Names(x, y, [*group, *batch, *x_kept, *y_kept], [*sizes, GROUP], ragged)

    def renamed(self, x: list, y: list) -> Names:
        """The same with the dimensions of the operands called ``x`` and ``y``."""
        new: dict = {("x", d): name for d, name in enumerate(x)}
        new.update({("y", d): name for d, name in enumerate(y)})
        new[GROUP] = GROUP
        return Names(x, y, [new[n] for n in self.out], [new[n] for n in self.sizes], new[self.ragged])


def left_ct(ct, y, z, x_aval, *, ragged_dot_dimension_numbers, precision, preferred_element_type):
    """ct times y, each group with its own, contracted over what only y keeps."""
    how = dict(precision=precision, preferred_element_type=preferred_element_type)
    names = Names.of(ragged_dot_dimension_numbers, x_aval.ndim, y.ndim)
    if names.ragged in names.y and names.ragged in names.out:
        return contract_with_rhs(
            ct, y, x_aval, dimension_numbers=ragged_dot_dimension_numbers.dot_dimension_numbers, **how
        )
    return contract(ct, names.out, y, names.y, z, names, names.x, x_aval, **how)


def right_ct(ct, x, z, y_aval, *, ragged_dot_dimension_numbers, precision, preferred_element_type):
    """x times ct, group by group, contracted over what only x keeps."""
    how = dict(precision=precision, preferred_element_type=preferred_element_type)
    names = Names.of(ragged_dot_dimension_numbers, x.ndim, y_aval.ndim)
    if names.ragged in names.y and names.ragged in names.out:
        return contract_with_lhs(
            ct, x, y_aval, dimension_numbers=ragged_dot_dimension_numbers.dot_dimension_numbers, **how
        )
    return contract(x, names.x, ct, names.out, z, names, names.y, y_aval, **how)


def dims(wanted, among):
    return [among.index(name) for name in wanted]


def contract(a, a_names, b, b_names, sizes, names, out_names, aval, *, precision, preferred_element_type):
    """The contraction of ``a`` and ``b`` to a cotangent of type ``aval`` with the dimensions ``out_names``."""
    if GROUP in a_names:
        a, a_names, b, b_names = b, b_names, a, a_names
    if sizes.ndim > 1:
        # Sizes that differ do so along what comes before the ragged dimension.
        ordered = [*names.sizes[:-1], *[name for name in a_names if name not in names.sizes]]
        a, a_names = lax.transpose(a, dims(ordered, a_names)), ordered
    shared = [name for name in a_names if name in b_names]
    batch = [name for name in shared if name in out_names]
    contracted = [name for name in shared if name not in out_names]
    numbers = lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(
            (dims(contracted, a_names), dims(contracted, b_names)),
            (dims(batch, a_names), dims(batch, b_names)),
        ),
        lhs_ragged_dimensions=dims([names.ragged], a_names),
        rhs_group_dimensions=[d for d, name in enumerate(b_names) if name == GROUP],
    )
    made = Names.of(numbers, a.ndim, b.ndim).renamed(a_names, b_names)
    order = dims(made.out, out_names)
    out = lax.ragged_dot_general(
        a,
        b,
        sizes,
        numbers,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=_jax.with_dimensions(_jax.ct_sharding(aval), order),
    )
    return convert(lax.transpose(out, np.argsort(order)), aval)


rules = {
    lax.dot_general_p: formula(contract_with_rhs, contract_with_lhs),
    _jax.ragged_dot_general_p: formula(left_ct, right_ct),
}

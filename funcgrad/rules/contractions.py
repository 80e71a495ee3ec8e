"""Contractions: ``dot_general``."""

from __future__ import annotations

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
    out = lax.dot_general_p.bind(
        ct,
        other,
        dimension_numbers=numbers,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=_jax.permuted_sharding(aval, order),
    )
    if order != sorted(order):
        out = transposed(out, inverse(order))
    return convert(out, aval)


def in_order_of(dims, keys):
    """``dims`` sorted by the ``keys`` they are paired with."""
    return [d for _, d in sorted(zip(keys, dims, strict=True))]


def remaining(ndim, contract, batch):
    return tuple([d for d in range(ndim) if d not in contract and d not in batch])


rules = {lax.dot_general_p: formula(contract_with_rhs, contract_with_lhs)}

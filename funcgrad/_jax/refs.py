"""References: what is read and written of what they hold."""

from __future__ import annotations

from typing import Any

import jax

from funcgrad._jax.names import addupdate_discharge, transform_array, transform_swap_array


def is_ref_value(x: Any) -> bool:
    return isinstance(x, jax.Ref)


def never_differentiated(aval) -> bool:
    """Whether a type is that of a reference that derivatives are not to flow through."""
    return getattr(aval, "kind", None) == "no_grad_no_remat"


def indices_of(tree, leaves) -> tuple[Any, ...]:
    """The views, one after the other, of an operation on part of a reference."""
    return jax.tree.unflatten(tree, leaves)


def read_at(x, tree, leaves):
    """``x[index]``, where ``x`` is what a reference holds."""
    return transform_array(x, indices_of(tree, leaves))


def replace_at(x, y, tree, leaves) -> tuple[Any, Any]:
    """``x[index]``, and ``x`` with ``y`` there."""
    return transform_swap_array(x, indices_of(tree, leaves), y)


def add_at(x, y, tree, leaves):
    """``x`` with ``y`` added to ``x[index]``."""
    return addupdate_discharge(x, y, leaves, tree)

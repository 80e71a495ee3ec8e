"""Indexing: rows taken and put by an array of indices as ``x[i]``, and all else as calls of ``lax``."""

from __future__ import annotations

import ast
from typing import Any

import jax.numpy as jnp
import numpy as np

from funcgrad._jax import Literal
from funcgrad.inspect.source.expressions import call, static, static_text
from funcgrad.inspect.source.operations import subscript
from funcgrad.inspect.source.program import Equation
from funcgrad.inspect.source.simplify import Rewrite, Simplifier, instead, is_value
from funcgrad.inspect.source.spelling import Names, Spelling

MODES = {"FILL_OR_DROP": "fill", "CLIP": "clip", "PROMISE_IN_BOUNDS": "promise_in_bounds", "ONE_HOT": "one_hot"}
#: The methods of ``x.at[i]``.
PUT = {
    "scatter": "set", "scatter-add": "add", "scatter-sub": "subtract", "scatter-mul": "multiply", "scatter-min": "min",
    "scatter-max": "max",
}  # fmt: skip

# Rewrites.


def wrapped_index(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """``where(i < 0, i + n, i)``, which makes indices from the end ones from the start."""
    if len(eqn.inputs) != 3:
        return None
    test, index, other = eqn.inputs
    less, plus = s.maker(test, "lt"), s.maker(other, "add")
    if less is None or plus is None or not is_value(less.inputs[1], 0) or less.inputs[0] is not index:
        return None
    amounts = [x for x in plus.inputs if x is not index]
    if index not in plus.inputs or len(amounts) != 1 or type(amounts[0]) is not Literal:
        return None
    return instead(eqn, "wrapped_index", index, size=int(amounts[0].val))


def rows(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A gather or scatter of whole rows."""
    x, indices, *updates = eqn.inputs
    row = x.aval.shape[1:]
    if updates:
        is_whole = updates[0].aval.shape == (*indices.aval.shape[:-1], *row)
    else:
        is_whole = tuple(eqn.params["slice_sizes"]) == (1, *row)
    found = index_of_rows(s, indices, *dimensions_of(eqn)) if is_whole else None
    if found is None:
        return None
    index, wraps = found
    return instead(eqn, "put_rows" if updates else "take_rows", x, index, *updates, wraps=wraps, **options(eqn))


def dimensions_of(eqn: Equation) -> list[tuple[int, ...]]:
    """Of a gather or scatter, the dimensions of windows, those dropped, those that indices are for, and batches."""
    numbers = eqn.params["dimension_numbers"]
    if eqn.name == "gather":
        own = (numbers.offset_dims, numbers.collapsed_slice_dims, numbers.start_index_map)
    else:
        own = (numbers.update_window_dims, numbers.inserted_window_dims, numbers.scatter_dims_to_operand_dims)
    return list(map(tuple, (*own, numbers.operand_batching_dims)))


def options(eqn: Equation) -> dict[str, Any]:
    given = {k: eqn.params.get(k) for k in ("mode", "indices_are_sorted", "unique_indices", "fill_value")}
    return {**given, "method": PUT.get(eqn.name)}


def index_of_rows(s: Simplifier, indices: Any, window: Any, dropped: Any, mapped: Any, batching: Any) -> Any:
    """The index that rows are taken or put by, and whether it counts from the end where negative; None if no rows."""
    ndim = len(indices.aval.shape) - 1
    if indices.aval.shape[-1:] != (1,) or batching or dropped != (0,) or mapped != (0,):
        return None
    if window != tuple(range(ndim, ndim + len(window))):
        return None
    made = s.maker(indices, "expand_dims", "reshape", "full")
    if made is None or made.inputs[0].aval.shape != indices.aval.shape[:-1]:
        return None
    index, wraps = unwrapped(s, made.inputs[0])
    return index, wraps or (type(index) is Literal and index.val >= 0)


def unwrapped(s: Simplifier, index: Any, size: int | None = None) -> tuple[Any, bool]:
    """An index as it was given, and whether it counts from the end where negative; of a dimension of ``size``."""
    made = s.maker(index, "wrapped_index")
    return (index, False) if made is None or size not in (None, made.params["size"]) else (made.inputs[0], True)


def taken_part(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A slice of size one from a place that a value says, without its dimension."""
    made = s.maker(eqn.inputs[0], "dynamic_slice")
    dims = tuple(eqn.params["dimensions"])
    if made is None or len(dims) != 1 or not s.only_use(eqn.inputs[0]):
        return None
    (axis,) = dims
    x, *starts = made.inputs
    sizes = tuple(made.params["slice_sizes"])
    if any(sizes[i] != n for i, n in enumerate(x.aval.shape) if i != axis) or type(starts[axis]) is Literal:
        return None
    index, wraps = unwrapped(s, starts[axis], x.aval.shape[axis])
    return instead(eqn, "take_part", x, index, axis=axis, wraps=wraps)


def picked(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A slice of size one in some dimensions, without them."""
    made = s.maker(eqn.inputs[0], "slice")
    dims = tuple(eqn.params["dimensions"])
    if made is None or not s.only_use(eqn.inputs[0]) or made.params["strides"] is not None:
        return None
    shape, starts = made.inputs[0].aval.shape, made.params["start_indices"]
    if any(made.outputs[0].aval.shape[i] != n for i, n in enumerate(shape) if i not in dims):
        return None
    places = {i: -1 if starts[i] == shape[i] - 1 and starts[i] else starts[i] for i in dims}
    return instead(eqn, "pick", made.inputs[0], index=tuple([places.get(i) for i in range(len(shape))]))


def along_axis(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A gather or scatter of single elements along one axis, by an array of indices for each."""
    x, indices, *updates = eqn.inputs
    window, dropped, mapped, batching = dimensions_of(eqn)
    shape = x.aval.shape
    if any(n != 1 for n in eqn.params.get("slice_sizes", ())):
        return None
    if window or len(mapped) != 1 or dropped != mapped or indices.aval.shape[-1:] != (1,):
        return None
    (axis,) = mapped
    others = tuple([i for i in range(len(shape)) if i != axis])
    made = s.maker(indices, "expand_dims", "reshape")
    if batching != others or made is None or not others:
        return None
    index, wraps = unwrapped(s, made.inputs[0], shape[axis])
    if not wraps or tuple(index.aval.shape[i] for i in others) != tuple(shape[i] for i in others):
        return None
    params = {"axis": axis, **options(eqn)}
    if index.aval.shape != indices.aval.shape[:-1] or params["indices_are_sorted"] or params["unique_indices"]:
        return None
    return instead(eqn, "put_along" if updates else "take_along", x, index, *updates, **params)


def put_part(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """An update of size one at a place that counts from the end where it is negative."""
    x, y, *starts = eqn.inputs
    shape = x.aval.shape
    axes = [i for i, n in enumerate(y.aval.shape) if n != shape[i] or not is_value(starts[i], 0)]
    if len(axes) != 1 or y.aval.shape[axes[0]] != 1 or len(shape) != len(y.aval.shape):
        return None
    (axis,) = axes
    index, wraps = unwrapped(s, starts[axis], shape[axis])
    made = s.maker(y, "expand_dims", "reshape", "full", "broadcast_to")
    if not wraps or made is None or made.inputs[0].aval.shape != shape[:axis] + shape[axis + 1 :]:
        return None
    return instead(eqn, "put_part", x, made.inputs[0], index, axis=axis)


REWRITES = {
    "select_n": (wrapped_index,),
    "gather": (rows, along_axis),
    "squeeze": (taken_part, picked),
    "dynamic_update_slice": (put_part,),
    **dict.fromkeys(PUT, (rows, along_axis)),
}

# Spellings.


def settings(eqn: Equation, index: Any = None) -> str:
    """What is said of the indices, as keywords.

    That they are in bounds goes without saying where a default does the same then.
    """
    params = eqn.params
    flags = ("indices_are_sorted", "unique_indices") if index is None or index.aval.shape else ()
    given = [f"{name}=True" for name in flags if params[name]]
    mode = MODES[params["mode"].name]
    if index is None or mode == "clip":
        given.append(f'mode="{mode}"')
    if index is not None and not params["wraps"]:
        given.append("wrap_negative_indices=False")
    return ", ".join(given)


def fill_value(eqn: Equation) -> str:
    """The fill value as a keyword, nothing where it is the default."""
    value = eqn.params["fill_value"]
    is_inexact = jnp.issubdtype(eqn.outputs[0].aval.dtype, np.inexact)
    return "" if value is None or (is_inexact and np.isnan(value)) else f"fill_value={static_text(value)}"


def take_rows(names: Names, eqn: Equation) -> str:
    given = ", ".join(filter(None, (settings(eqn, eqn.inputs[1]), fill_value(eqn))))
    return f"x.at[b].get({given})" if given else "x[b]"


def put_rows_at(names: Names, eqn: Equation) -> str:
    return f"x.at[b].{eqn.params['method']}(z, {settings(eqn, eqn.inputs[1])})"


def take_part(names: Names, eqn: Equation) -> str:
    axis = eqn.params["axis"]
    return f"x[{':, ' * axis}y]" if eqn.params["wraps"] else f"lax.dynamic_index_in_dim(x, y, {axis}, keepdims=False)"


def pick(names: Names, eqn: Equation) -> str:
    return subscript([":" if i is None else i for i in eqn.params["index"]])


def take_along(names: Names, eqn: Equation) -> str:
    is_last = eqn.params["axis"] == eqn.inputs[0].aval.ndim - 1
    given = f"axis={-1 if is_last else eqn.params['axis']}"
    mode = MODES[eqn.params["mode"].name]
    if mode == "clip" or fill_value(eqn):
        given += f', mode="{mode}", fill_value={static_text(eqn.params["fill_value"])}'
    return f"jnp.take_along_axis(x, y, {given})"


def put_along(names: Names, eqn: Equation) -> str:
    x, axis = eqn.inputs[0].aval, eqn.params["axis"]
    parts = []
    for i, n in enumerate(x.shape):
        turned = f"[{', '.join([':', *['None'] * (x.ndim - i - 1)])}]" if i < x.ndim - 1 else ""
        parts.append("y" if i == axis else f"jnp.arange({n}){turned}")
    mode = ', mode="clip"' if MODES[eqn.params["mode"].name] == "clip" else ""
    return f"x.at[{', '.join(parts)}].{eqn.params['method']}(z{mode})"


def gather(names: Names, eqn: Equation) -> str:
    fill = "fill_value={fill_value}"
    return f"lax.gather(x, y, {{dimension_numbers}}, {{tuple(slice_sizes)}}, {settings(eqn)}, {fill})"


def scatter(names: Names, eqn: Equation) -> str:
    return f"lax.{eqn.name.replace('-', '_')}(*xs, {{dimension_numbers}}, {settings(eqn)})"


def dynamic_slice(names: Names, eqn: Equation) -> ast.expr:
    x, *starts = eqn.inputs
    given = [names.typed(x), places(names, starts), static(tuple(eqn.params["slice_sizes"]))]
    return call("lax.dynamic_slice", given)


def dynamic_update_slice(names: Names, eqn: Equation) -> ast.expr:
    x, y, *starts = eqn.inputs
    return call("lax.dynamic_update_slice", [names.typed(x), names.typed(y), places(names, starts)])


def places(names: Names, starts: list[Any]) -> ast.expr:
    """Start indices, which must be of one type."""
    types = {x.aval.dtype for x in starts if type(x) is not Literal}
    are_bare = not types or types == {jnp.dtype(jnp.result_type(int))}
    return ast.Tuple([(names.bare if are_bare else names.typed)(x) for x in starts])


SPELLINGS: dict[str, Spelling] = {
    "wrapped_index": "jnp.where(x < 0, x + {size}, x)",
    "take_rows": take_rows,
    "put_rows": put_rows_at,
    "take_part": take_part,
    "pick": pick,
    "take_along": take_along,
    "put_along": put_along,
    "put_part": "lax.dynamic_update_index_in_dim(x, y, z, {axis})",
    "gather": gather,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    **dict.fromkeys(PUT, scatter),
}

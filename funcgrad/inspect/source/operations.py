"""Spellings of operations on elements, shapes, reductions and products."""

from __future__ import annotations

import itertools
import string
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad._jax import Literal
from funcgrad.inspect.source.expressions import scalar_text
from funcgrad.inspect.source.program import Equation
from funcgrad.inspect.source.spelling import BOUND, Names, Spelling

# Elements.


def div(names: Names, eqn: Equation) -> str:
    return "a / b" if jnp.issubdtype(eqn.outputs[0].aval.dtype, np.inexact) else "lax.div(*alike)"


def integer_pow(names: Names, eqn: Equation) -> str:
    return "lax.integer_pow(x, {y})" if eqn.params["y"] < 0 else "x**{y}"


def select(names: Names, eqn: Equation) -> str:
    which, *cases = eqn.inputs
    if which.aval.dtype != np.bool_ or len(cases) != 2:
        return "lax.select_n(*alike)"
    return "jnp.where(a, z, y)" if all(type(x) is Literal for x in cases) else "jnp.where(a, c, b)"


def clamp(names: Names, eqn: Equation) -> str:
    lower, x, upper = eqn.inputs
    return "jnp.clip(y, a, c)" if type(lower) is type(upper) is Literal is not type(x) else "lax.clamp(*alike)"


def convert(names: Names, eqn: Equation) -> str:
    if eqn.params.get("sharding") is not None:
        return BOUND
    types = [eqn.inputs[0].aval.dtype, eqn.outputs[0].aval.dtype]
    if any(jnp.issubdtype(t, np.complexfloating) or jnp.issubdtype(t, jax.dtypes.extended) for t in types):
        return "lax.convert_element_type(x, {out_aval.dtype})"
    return "x.astype({out_aval.dtype})"


# Shapes.


def subscript(parts: Sequence[Any]) -> str:
    """An index of ``parts``, without the whole dimensions at its end."""
    texts = list(map(str, parts))
    while len(texts) > 1 and texts[-1] == ":":
        texts.pop()
    return f"x[{', '.join(texts)}]"


def full(names: Names, eqn: Equation) -> str:
    x, out = eqn.inputs[0], eqn.outputs[0].aval
    if type(x) is not Literal:
        return "jnp.broadcast_to(x, {out_aval.shape})"
    dtype = ", {out_aval.dtype}"
    if out.dtype in (jnp.result_type(float), np.bool_):
        dtype = ", bool" if out.dtype == np.bool_ else ""
    if x.val == 0 or x.val == 1:
        return f"jnp.{'ones' if x.val else 'zeros'}({{short(out_aval.shape)}}{dtype})"
    return f"jnp.full({{short(out_aval.shape)}}, {scalar_text(x.val)}{dtype})"


def expand_dims(names: Names, eqn: Equation) -> str:
    axes, ndim = eqn.params["axes"], eqn.outputs[0].aval.ndim
    if ndim > 4:
        return "jnp.expand_dims(x, {short(axes)})"
    return subscript(["None" if i in axes else ":" for i in range(ndim)])


def broadcast_in_dim(names: Names, eqn: Equation) -> str:
    if len(eqn.inputs) > 1:
        return BOUND
    extra = "out_sharding={params.get('sharding')}"
    return f"lax.broadcast_in_dim(x, {{out_aval.shape}}, {{tuple(broadcast_dimensions)}}, {extra})"


def reshape(names: Names, eqn: Equation) -> str:
    if eqn.params.get("dimensions") is not None or eqn.params.get("sharding") is not None:
        return "lax.reshape(x, {out_aval.shape}, {dimensions}, out_sharding={sharding})"
    return "x.reshape(*{out_aval.shape})" if eqn.outputs[0].aval.shape else "x.reshape(())"


def squeeze(names: Names, eqn: Equation) -> str:
    dims, ndim = eqn.params["dimensions"], eqn.inputs[0].aval.ndim
    if ndim > 4 or not dims:
        return "jnp.squeeze(x, axis={short(dimensions)})"
    return subscript([0 if i in dims else ":" for i in range(ndim)])


def transpose(names: Names, eqn: Equation) -> str:
    order = tuple(eqn.params["permutation"])
    n = len(order)
    if order == (1, 0):
        return "x.T"
    return "x.mT" if n > 2 and order == (*range(n - 2), n - 1, n - 2) else "x.transpose(*{permutation})"


def pad(names: Names, eqn: Equation) -> str:
    value, config = eqn.inputs[1], eqn.params["padding_config"]
    grows = all(low >= 0 and high >= 0 and not inner for low, high, inner in config)
    if grows and type(value) is Literal and value.val == 0:
        return "jnp.pad(x, {tuples(sides[:2] for sides in padding_config)})"
    return "lax.pad(x, y, {tuples(padding_config)})"


def slice_(names: Names, eqn: Equation) -> str:
    shape, params = eqn.inputs[0].aval.shape, eqn.params
    strides = params["strides"] or (1,) * len(shape)
    parts = []
    for start, stop, step, n in zip(params["start_indices"], params["limit_indices"], strides, shape, strict=True):
        text = f"{start or ''}:{stop if stop != n else ''}"
        parts.append(text if step == 1 else f"{text}:{step}")
    return subscript(parts)


def tri(names: Names, eqn: Equation) -> str:
    rows, columns = eqn.outputs[0].aval.shape
    if rows == columns and not eqn.params["offset"]:
        return f"jnp.tri({rows}, dtype=bool)"
    return f"jnp.tri({rows}, {columns}, {{offset or None}}, dtype=bool)"


def axis_of(axis: int, aval: Any) -> str:
    """An axis as a keyword, the last one counted from the end and the first left out."""
    return f", axis={-1 if axis == aval.ndim - 1 else axis}" if axis else ""


def concatenate(names: Names, eqn: Equation) -> str:
    return f"jnp.concatenate([*xs]{axis_of(eqn.params['dimension'], eqn.inputs[0].aval)})"


def split(names: Names, eqn: Equation) -> str:
    sizes = eqn.params["sizes"]
    if len(sizes) == 1:
        return "x"
    places = len(sizes) if len(set(sizes)) == 1 else list(itertools.accumulate(sizes))[:-1]
    return f"jnp.split(x, {places}{axis_of(eqn.params['axis'], eqn.inputs[0].aval)})"


def iota(names: Names, eqn: Equation) -> str:
    out = eqn.outputs[0].aval
    if eqn.inputs or eqn.params.get("sharding") is not None:
        return BOUND
    if out.ndim > 1:
        return "lax.broadcasted_iota({out_aval.dtype}, {out_aval.shape}, {dimension})"
    dtype = "" if out.dtype == jnp.result_type(int) else ", dtype={out_aval.dtype}"
    return f"jnp.arange({out.shape[0]}{dtype})"


# Reductions.

#: The function of ``jnp`` for each, which is used where it keeps the type.
REDUCTIONS = {
    "mean": "mean", "reduce_sum": "sum", "reduce_prod": "prod", "reduce_max": "max", "reduce_min": "min",
    "reduce_and": "all", "reduce_or": "any", "reduce_xor": "",
}  # fmt: skip


def reduction(names: Names, eqn: Equation) -> str:
    aval, params = eqn.inputs[0].aval, eqn.params
    is_wide = aval.dtype.itemsize >= 4 and jnp.issubdtype(aval.dtype, np.inexact)
    if (eqn.name not in ("reduce_max", "reduce_min") and not is_wide) or params.get("out_sharding") is not None:
        function = "jnp.mean" if eqn.name == "mean" else f"lax.{eqn.name}"
        text = f"{function}(x, {{tuple(axes)}}, out_sharding={{params.get('out_sharding')}})"
        return f"jnp.expand_dims({text}, {{short(axes)}})" if params.get("keepdims") else text
    axis = ""
    if tuple(params["axes"]) == (aval.ndim - 1,) and aval.ndim > 1:
        axis = "axis=-1, "
    elif tuple(params["axes"]) != tuple(range(aval.ndim)):
        axis = "axis={short(axes)}, "
    return f"jnp.{REDUCTIONS[eqn.name]}(x, {axis}keepdims={{params.get('keepdims')}})"


# Products.


def dot_general(names: Names, eqn: Equation) -> str:
    x, y = [x.aval for x in eqn.inputs]
    params = eqn.params
    if params.get("out_sharding") is not None:
        return BOUND
    extra = "" if params.get("precision") is None else ", precision={precision}"
    if params.get("preferred_element_type") not in (None, jnp.result_type(x.dtype, y.dtype)):
        extra += ", preferred_element_type={preferred_element_type}"
    (contracted, batch) = [tuple(map(tuple, pair)) for pair in params["dimension_numbers"]]
    product = matrix_product(x.ndim, y.ndim, contracted, batch)
    if product is not None:
        left, right = product
        return f"jnp.matmul({left}, {right}{extra})" if extra else f"{left} @ {right}"
    if contracted == batch == ((), ()) and x.ndim == y.ndim == 1 and not extra:
        return "jnp.outer(x, y)"
    return f'jnp.einsum("{einsum_spec(x.ndim, y.ndim, contracted, batch)}", x, y{extra})'


def matrix_product(n: int, m: int, contracted: tuple, batch: tuple) -> tuple[str, str] | None:
    """The operands of ``@`` for a contraction of arrays of ``n`` and ``m`` dimensions, None if it is not one."""
    count = len(batch[0])
    if len(contracted[0]) != 1 or n == 0 or m == 0 or batch != (tuple(range(count)),) * 2:
        return None
    if (n, m) != (count + 2, count + 2) if count else m > 2:
        return None
    ((i,), (j,)) = contracted
    if i != n - 1 and n - count != 2:
        return None
    turned = ".mT" if count else ".T"
    return f"x{turned if i != n - 1 else ''}", f"y{turned if m - count == 2 and j != m - 2 else ''}"


def einsum_spec(n: int, m: int, contracted: tuple, batch: tuple) -> str:
    numbers = itertools.count()
    xs, ys = [-1] * n, [-1] * m
    for i, j in (*zip(*batch, strict=True), *zip(*contracted, strict=True)):
        xs[i] = ys[j] = next(numbers)
    xs = [next(numbers) if k < 0 else k for k in xs]
    ys = [next(numbers) if k < 0 else k for k in ys]
    out = [xs[i] for i in batch[0]]
    out += [k for i, k in enumerate(xs) if i not in (*batch[0], *contracted[0])]
    out += [k for i, k in enumerate(ys) if i not in (*batch[1], *contracted[1])]
    # The letters are in the order in which they are met.
    order = list(dict.fromkeys([*xs, *ys]))
    letters = "bijklmnopqrstuvwxyz" if 1 < len(order) <= 19 else "i" if len(order) == 1 else string.ascii_letters
    known = dict(zip(order, letters, strict=False))
    x, y, result = ["".join(known[k] for k in part) for part in (xs, ys, out)]
    return f"{x},{y}->{result}"


SPELLINGS: dict[str, Spelling] = {
    "add": "a + b", "sub": "a - b", "mul": "a * b", "div": div, "or": "a | b", "xor": "a ^ b", "and": "a & b",
    "shift_left": "a << b", "eq": "a == b", "ne": "a != b", "lt": "a < b", "le": "a <= b", "gt": "a > b",
    "ge": "a >= b", "neg": "-x", "not": "~x", "square": "x**2", "integer_pow": integer_pow,
    **{name: f"jnp.{name}(a)" for name in (
        "exp", "exp2", "expm1", "log", "log1p", "tanh", "sin", "cos", "tan", "sinh", "cosh", "sqrt", "cbrt", "abs",
        "floor", "ceil", "real", "imag", "conj",
    )},
    **{name: f"jnp.arc{name[1:]}(a)" for name in ("asin", "acos", "atan", "asinh", "acosh", "atanh")},
    **{name: f"lax.{name}(*alike)" for name in (
        "rsqrt", "erf", "erfc", "erf_inv", "lgamma", "digamma", "bessel_i0e", "bessel_i1e", "sign", "rem", "pow",
        "igamma", "igammac", "igamma_grad_a", "polygamma", "zeta", "shift_right_logical", "shift_right_arithmetic",
        "clz", "population_count", "complex", "random_gamma_grad",
    )},
    "nextafter": "jnp.nextafter(a, b)",
    "atan2": "jnp.arctan2(a, b)",
    "max": "jnp.maximum(a, b)",
    "min": "jnp.minimum(a, b)",
    "logistic": "jax.nn.sigmoid(a)",
    "is_finite": "jnp.isfinite(a)",
    "regularized_incomplete_beta": "lax.betainc(*alike)",
    "round": "lax.round(*alike, rounding_method={rounding_method})",
    "reduce_precision": "lax.reduce_precision(*alike, exponent_bits={exponent_bits}, mantissa_bits={mantissa_bits})",
    "select_n": select,
    "clip": "jnp.clip(x, b, c)",
    "clamp": clamp,
    "bitcast_convert_type": "lax.bitcast_convert_type(x, {new_dtype})",
    "convert_element_type": convert,
    "full": full,
    "expand_dims": expand_dims,
    "broadcast_to": "jnp.broadcast_to(x, {out_aval.shape})",
    "broadcast_in_dim": broadcast_in_dim,
    "reshape": reshape,
    "squeeze": squeeze,
    "transpose": transpose,
    "concatenate": concatenate,
    "pad": pad,
    "rev": "jnp.flip(x, axis={short(dimensions)})",
    "slice": slice_,
    "tri": tri,
    "tile": "jnp.tile(x, {tuple(reps)})",
    "split": split,
    "stack": "jnp.stack([*xs], axis={axis})",
    "unstack": lambda names, eqn: f"jnp.unstack(x, axis={{axis}}){'[0]' if len(eqn.outputs) == 1 else ''}",
    "iota": iota,
    **dict.fromkeys(REDUCTIONS, reduction),
    **{name: f"lax.{name}(x, {{axes[0]}}, {{index_dtype}})" for name in ("argmax", "argmin")},
    **{name: f"lax.{name}(x, axis={{axis}}, reverse={{reverse}})" for name in (
        "cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp",
    )},
    "dot_general": dot_general,
}  # fmt: skip

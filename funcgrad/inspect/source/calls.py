"""Operations as the ``jnp`` and ``lax`` calls that a person would write for them."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad._jax import Literal
from funcgrad.inspect.source.program import Equation
from funcgrad.inspect.source.static import Unprintable, dtype_text, keywords_of, public_primitive, static_text
from funcgrad.inspect.source.text import (
    ADD,
    AND,
    MULTIPLY,
    OR,
    POWER,
    SHIFT,
    TEST,
    XOR,
    Text,
    binary,
    call,
    prefix,
)  # fmt: skip


class Names(Protocol):
    """What a call is written in terms of."""

    def text(self, x: Any) -> Text:
        """A value; a number as a Python literal."""
        ...

    def typed(self, x: Any) -> Text:
        """A value; a number as an array of its type."""
        ...

    def function(self, program: Any, name: str, groups: int = 0, first: Sequence[str] = ()) -> str:
        """The name of a function in the source that runs a program, on inputs one by one or in groups."""
        ...


Spelling = Callable[[Names, Equation], Text]


def spelled(names: Names, eqn: Equation) -> Text:
    """An equation as an expression: a value, or a tuple where the primitive has multiple results."""
    spelling = SPELLINGS.get(eqn.name, bound)
    return spelling(names, eqn)


def bound(names: Names, eqn: Equation) -> Text:
    """What has no function of its own: its primitive, bound."""
    place = public_primitive(eqn.primitive)
    if place is None:
        raise NotImplementedError(f"'{eqn.name}' cannot be written as source: JAX has no public name for it.")
    try:
        given = keywords_of(eqn.params)
    except Unprintable as error:
        raise NotImplementedError(f"'{eqn.name}' cannot be written as source: it has the parameter {error}.") from None
    text = call(f"{place}.bind", *[names.typed(x) for x in eqn.inputs], **given)
    return Text(f"{text}[0]") if eqn.is_multiple and len(eqn.outputs) == 1 else text


# Operators.

OPERATORS = {
    "add": ("+", ADD), "sub": ("-", ADD), "mul": ("*", MULTIPLY), "div": ("/", MULTIPLY), "or": ("|", OR),
    "xor": ("^", XOR), "and": ("&", AND), "shift_left": ("<<", SHIFT), "eq": ("==", TEST), "ne": ("!=", TEST),
    "lt": ("<", TEST), "le": ("<=", TEST), "gt": (">", TEST), "ge": (">=", TEST),
}  # fmt: skip


def operands(names: Names, eqn: Equation) -> list[Text]:
    """Numbers take the type of the array they are combined with, so at least one operand must be one."""
    bare = any(type(x) is not Literal for x in eqn.inputs)
    return [(names.text if bare else names.typed)(x) for x in eqn.inputs]


def operator(names: Names, eqn: Equation) -> Text:
    symbol, level = OPERATORS[eqn.name]
    if eqn.name == "div" and not jnp.issubdtype(eqn.outputs[0].aval.dtype, np.inexact):
        return call("lax.div", *typed_alike(names, eqn))
    return binary(symbol, level, *operands(names, eqn))


def typed_alike(names: Names, eqn: Equation) -> list[Text]:
    """Operands for a function of ``lax``, which does not broadcast them, but for scalars."""
    shape = eqn.outputs[0].aval.shape
    texts = []
    for x in eqn.inputs:
        if x.aval.shape in (shape, ()):
            texts.append(names.typed(x))
        else:
            texts.append(call("jnp.broadcast_to", names.typed(x), shape))
    return texts


def elementwise(function: str) -> Spelling:
    def spell(names: Names, eqn: Equation) -> Text:
        return bound(names, eqn) if eqn.params.get("accuracy") else call(function, *operands(names, eqn))

    return spell


def lax_elementwise(function: str, *keywords: str) -> Spelling:
    def spell(names: Names, eqn: Equation) -> Text:
        if eqn.params.get("accuracy"):
            return bound(names, eqn)
        return call(function, *typed_alike(names, eqn), **{k: static_text(eqn.params[k]) for k in keywords})

    return spell


def square(names: Names, eqn: Equation) -> Text:
    return binary("**", POWER, names.typed(eqn.inputs[0]), Text("2"))


def integer_pow(names: Names, eqn: Equation) -> Text:
    y = eqn.params["y"]
    if y < 0:
        return call("lax.integer_pow", names.typed(eqn.inputs[0]), y)
    return binary("**", POWER, names.typed(eqn.inputs[0]), Text(str(y)))


def negative(names: Names, eqn: Equation) -> Text:
    return prefix("-", names.typed(eqn.inputs[0]))


def inverted(names: Names, eqn: Equation) -> Text:
    return prefix("~", names.typed(eqn.inputs[0]))


def select(names: Names, eqn: Equation) -> Text:
    which, *cases = eqn.inputs
    if which.aval.dtype != np.bool_ or len(cases) != 2:
        return call("lax.select_n", *typed_alike(names, eqn))
    bare = any(type(x) is not Literal for x in cases)
    no, yes = [(names.text if bare else names.typed)(x) for x in cases]
    return call("jnp.where", names.text(which), yes, no)


def clip(names: Names, eqn: Equation) -> Text:
    x, lower, upper = eqn.inputs
    bounds = [names.text(bound) if type(bound) is Literal else names.typed(bound) for bound in (lower, upper)]
    return call("jnp.clip", names.typed(x), *bounds)


def clamp(names: Names, eqn: Equation) -> Text:
    lower, x, upper = eqn.inputs
    if type(lower) is type(upper) is Literal and type(x) is not Literal:
        return call("jnp.clip", names.typed(x), names.text(lower), names.text(upper))
    return call("lax.clamp", *typed_alike(names, eqn))


def bitcast(names: Names, eqn: Equation) -> Text:
    return call("lax.bitcast_convert_type", names.typed(eqn.inputs[0]), dtype_text(eqn.params["new_dtype"]))


def convert(names: Names, eqn: Equation) -> Text:
    x, out = eqn.inputs[0], eqn.outputs[0].aval
    types = [x.aval.dtype, out.dtype]
    if eqn.params.get("sharding") is not None:
        return bound(names, eqn)
    if any(jnp.issubdtype(t, np.complexfloating) or jnp.issubdtype(t, jax.dtypes.extended) for t in types):
        return call("lax.convert_element_type", names.typed(x), dtype_text(out.dtype))
    return method(names, x, "astype", dtype_text(out.dtype))


def method(names: Names, x: Any, name: str, *args: Any) -> Text:
    return call(f"{names.typed(x).within(9)}.{name}", *args)


# Shapes.


def size(shape: Sequence[int]) -> str:
    return str(tuple(shape))


def length(shape: Sequence[int]) -> str:
    """A shape where a single number may stand for one of one dimension."""
    return str(shape[0]) if len(shape) == 1 else size(shape)


def full(names: Names, eqn: Equation) -> Text:
    x, out = eqn.inputs[0], eqn.outputs[0].aval
    is_default = out.dtype == jnp.result_type(float) or (out.dtype == np.bool_ and type(x) is Literal)
    if type(x) is Literal:
        for value, name in ((0, "zeros"), (1, "ones")):
            if x.val == value:
                if out.dtype == np.bool_:
                    return call(f"jnp.{name}", length(out.shape), "bool")
                given = [] if is_default else [dtype_text(out.dtype)]
                return call(f"jnp.{name}", length(out.shape), *given)
        return call("jnp.full", length(out.shape), names.text(x), *([] if is_default else [dtype_text(out.dtype)]))
    return call("jnp.broadcast_to", names.typed(x), size(out.shape))


def expand(names: Names, eqn: Equation) -> Text:
    x, axes, ndim = eqn.inputs[0], eqn.params["axes"], len(eqn.outputs[0].aval.shape)
    if ndim > 4:
        return call("jnp.expand_dims", names.typed(x), axis_text(axes))
    parts = ["None" if i in axes else ":" for i in range(ndim)]
    while len(parts) > 1 and parts[-1] == ":":
        parts.pop()
    return Text(f"{names.typed(x).within(9)}[{', '.join(parts)}]")


def broadcast_to(names: Names, eqn: Equation) -> Text:
    return call("jnp.broadcast_to", names.typed(eqn.inputs[0]), size(eqn.outputs[0].aval.shape))


def broadcast_in_dim(names: Names, eqn: Equation) -> Text:
    x, *dynamic = eqn.inputs
    if dynamic:
        return bound(names, eqn)
    extra = {"out_sharding": static_text(eqn.params["sharding"])} if eqn.params.get("sharding") is not None else {}
    dims = static_text(tuple(eqn.params["broadcast_dimensions"]))
    return call("lax.broadcast_in_dim", names.typed(x), size(eqn.outputs[0].aval.shape), dims, **extra)


def reshape(names: Names, eqn: Equation) -> Text:
    x, dims, sharding = eqn.inputs[0], eqn.params.get("dimensions"), eqn.params.get("sharding")
    shape = size(eqn.outputs[0].aval.shape)
    if dims is None and sharding is None:
        return method(names, x, "reshape", shape[1:-1].rstrip(",") if shape != "()" else "()")
    extra = {"out_sharding": static_text(sharding)} if sharding is not None else {}
    return call("lax.reshape", names.typed(x), shape, static_text(dims), **extra)


def squeeze(names: Names, eqn: Equation) -> Text:
    x, dims = eqn.inputs[0], eqn.params["dimensions"]
    if len(x.aval.shape) > 4 or not dims:
        return call("jnp.squeeze", names.typed(x), f"axis={axis_text(dims)}")
    parts = ["0" if i in dims else ":" for i in range(len(x.aval.shape))]
    while parts[-1] == ":":
        parts.pop()
    return Text(f"{names.typed(x).within(9)}[{', '.join(parts)}]")


def transpose(names: Names, eqn: Equation) -> Text:
    x, order = eqn.inputs[0], tuple(eqn.params["permutation"])
    n = len(order)
    if order == (1, 0):
        return Text(f"{names.typed(x).within(9)}.T")
    if n > 2 and order == (*range(n - 2), n - 1, n - 2):
        return Text(f"{names.typed(x).within(9)}.mT")
    return method(names, x, "transpose", *order)


def axis_of(axis: int, ndim: int) -> list[str]:
    """An axis as a keyword, the last one counted from the end and the first left out."""
    return [f"axis={-1 if axis == ndim - 1 else axis}"] if axis else []


def concatenate(names: Names, eqn: Equation) -> Text:
    items = ", ".join(str(names.typed(x)) for x in eqn.inputs)
    axis = eqn.params["dimension"]
    return call("jnp.concatenate", f"[{items}]", *axis_of(axis, eqn.inputs[0].aval.ndim))


def pad(names: Names, eqn: Equation) -> Text:
    x, value = eqn.inputs
    config = eqn.params["padding_config"]
    if all(low >= 0 and high >= 0 and not inner for low, high, inner in config) and is_zero(value):
        return call("jnp.pad", names.typed(x), static_text(tuple([(low, high) for low, high, _ in config])))
    return call("lax.pad", names.typed(x), names.typed(value), static_text(tuple(map(tuple, config))))


def is_zero(x: Any) -> bool:
    return type(x) is Literal and x.val == 0


def rev(names: Names, eqn: Equation) -> Text:
    return call("jnp.flip", names.typed(eqn.inputs[0]), f"axis={axis_text(eqn.params['dimensions'])}")


def slice_(names: Names, eqn: Equation) -> Text:
    x, params = eqn.inputs[0], eqn.params
    shape = x.aval.shape
    strides = params["strides"] or (1,) * len(shape)
    parts = []
    for start, stop, step, n in zip(params["start_indices"], params["limit_indices"], strides, shape, strict=True):
        text = f"{start or ''}:{stop if stop != n else ''}"
        parts.append(text if step == 1 else f"{text}:{step}")
    while len(parts) > 1 and parts[-1] == ":":
        parts.pop()
    return Text(f"{names.typed(x).within(9)}[{', '.join(parts)}]")


def tri(names: Names, eqn: Equation) -> Text:
    rows, columns = eqn.outputs[0].aval.shape
    offset = [eqn.params["offset"]] if eqn.params["offset"] else []
    given = [rows] if rows == columns and not offset else [rows, columns, *offset]
    return call("jnp.tri", *given, dtype="bool")


def tile(names: Names, eqn: Equation) -> Text:
    return call("jnp.tile", names.typed(eqn.inputs[0]), static_text(tuple(eqn.params["reps"])))


def split(names: Names, eqn: Equation) -> Text:
    sizes, axis = eqn.params["sizes"], eqn.params["axis"]
    if len(sizes) == 1:
        return names.typed(eqn.inputs[0])
    if len(set(sizes)) == 1:
        return call("jnp.split", names.typed(eqn.inputs[0]), len(sizes), *axis_of(axis, eqn.inputs[0].aval.ndim))
    stops = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return call("jnp.split", names.typed(eqn.inputs[0]), stops, *axis_of(axis, eqn.inputs[0].aval.ndim))


def stack(names: Names, eqn: Equation) -> Text:
    items = ", ".join(str(names.typed(x)) for x in eqn.inputs)
    return call("jnp.stack", f"[{items}]", f"axis={eqn.params['axis']}")


def unstack(names: Names, eqn: Equation) -> Text:
    text = call("jnp.unstack", names.typed(eqn.inputs[0]), f"axis={eqn.params['axis']}")
    return Text(f"{text}[0]") if len(eqn.outputs) == 1 else text


def iota(names: Names, eqn: Equation) -> Text:
    if eqn.inputs or eqn.params.get("sharding") is not None:
        return bound(names, eqn)
    aval, axis = eqn.outputs[0].aval, eqn.params["dimension"]
    if len(aval.shape) == 1:
        given = [] if aval.dtype == jnp.result_type(int) else [f"dtype={dtype_text(aval.dtype)}"]
        return call("jnp.arange", aval.shape[0], *given)
    return call("lax.broadcasted_iota", dtype_text(aval.dtype), size(aval.shape), axis)


# Reductions.


def axis_text(axes: Sequence[int]) -> str:
    axes = tuple(int(i) for i in axes)
    return str(axes[0]) if len(axes) == 1 else static_text(axes)


def reduction(jnp_name: str, lax_name: str, everywhere: bool = False) -> Spelling:
    """A reduction; ``jnp``'s where it keeps the type."""

    def spell(names: Names, eqn: Equation) -> Text:
        x, params = eqn.inputs[0], eqn.params
        kept = everywhere or (x.aval.dtype.itemsize >= 4 and jnp.issubdtype(x.aval.dtype, np.inexact))
        if not kept or params.get("out_sharding") is not None:
            extra = {"out_sharding": static_text(params["out_sharding"])} if params.get("out_sharding") else {}
            text = call(lax_name, names.typed(x), static_text(tuple(params["axes"])), **extra)
            if params.get("keepdims"):
                return call("jnp.expand_dims", text, axis_text(params["axes"]))
            return text
        axes, ndim = tuple(params["axes"]), len(x.aval.shape)
        given = []
        if axes == (ndim - 1,) and ndim > 1:
            given.append("axis=-1")
        elif axes != tuple(range(ndim)):
            given.append(f"axis={axis_text(axes)}")
        if params.get("keepdims"):
            given.append("keepdims=True")
        return call(jnp_name, names.typed(x), *given)

    return spell


def argument(name: str) -> Spelling:
    def spell(names: Names, eqn: Equation) -> Text:
        (axis,) = eqn.params["axes"]
        return call(f"lax.{name}", names.typed(eqn.inputs[0]), axis, dtype_text(eqn.params["index_dtype"]))

    return spell


def cumulative(name: str) -> Spelling:
    def spell(names: Names, eqn: Equation) -> Text:
        extra = {"reverse": "True"} if eqn.params["reverse"] else {}
        return call(f"lax.{name}", names.typed(eqn.inputs[0]), axis=eqn.params["axis"], **extra)

    return spell


# Contractions.


def dot_general(names: Names, eqn: Equation) -> Text:
    x, y = eqn.inputs
    params = eqn.params
    if params.get("out_sharding") is not None:
        return bound(names, eqn)
    extra = {}
    if params.get("precision") is not None:
        extra["precision"] = static_text(params["precision"])
    if params.get("preferred_element_type") not in (None, jnp.result_type(x.aval.dtype, y.aval.dtype)):
        extra["preferred_element_type"] = dtype_text(params["preferred_element_type"])
    ((xc, yc), (xb, yb)) = params["dimension_numbers"]
    product = matrix_product(names, x, y, tuple(xc), tuple(yc), tuple(xb), tuple(yb))
    if product is not None:
        left, right = product
        if extra:
            return call("jnp.matmul", left, right, **extra)
        return binary("@", MULTIPLY, left, right)
    letters = iter(string.ascii_letters)
    xs, ys = [""] * x.aval.ndim, [""] * y.aval.ndim
    for i, j in (*zip(xb, yb, strict=True), *zip(xc, yc, strict=True)):
        xs[i] = ys[j] = next(letters)
    xs = [c or next(letters) for c in xs]
    ys = [c or next(letters) for c in ys]
    out = [xs[i] for i in xb]
    out += [c for i, c in enumerate(xs) if i not in (*xb, *xc)]
    out += [c for i, c in enumerate(ys) if i not in (*yb, *yc)]
    if not xc and not xb and len(xs) == len(ys) == 1 and not extra:
        return call("jnp.outer", names.typed(x), names.typed(y))
    spec = f"{''.join(xs)},{''.join(ys)}->{''.join(out)}"
    return call("jnp.einsum", f'"{renamed(spec)}"', names.typed(x), names.typed(y), **extra)


def renamed(spec: str) -> str:
    """The letters of an einsum in the order they are met."""
    order = dict.fromkeys(c for c in spec if c in string.ascii_letters)
    start = "bijklmnopqrstuvwxyz" if len(order) <= 19 else string.ascii_letters
    table = dict(zip(order, start if len(order) > 1 else "i", strict=False))
    return "".join(table.get(c, c) for c in spec)


def matrix_product(names: Names, x: Any, y: Any, xc: tuple, yc: tuple, xb: tuple, yb: tuple) -> Any:
    """The operands of ``@`` for a contraction, None if it is not one."""
    n, m = x.aval.ndim, y.aval.ndim
    if len(xc) != 1 or n == 0 or m == 0:
        return None
    count = len(xb)
    if xb != tuple(range(count)) or yb != xb:
        return None
    if count and (n != count + 2 or m != count + 2):
        return None
    if not count and m > 2:
        return None
    left, right = names.typed(x), names.typed(y)
    (i,), (j,) = xc, yc
    turn = "mT" if count else "T"
    if i != n - 1:
        if n - count != 2:
            return None
        left = Text(f"{left.within(9)}.{turn}")
    if m - count == 2 and j != m - 2:
        right = Text(f"{right.within(9)}.{turn}")
    return left, right


SPELLINGS: dict[str, Spelling] = {
    **dict.fromkeys(OPERATORS, operator),
    **{name: elementwise(f"jnp.{name}") for name in (
        "exp", "exp2", "expm1", "log", "log1p", "tanh", "sin", "cos", "tan", "sinh", "cosh", "sqrt", "cbrt", "abs",
        "floor", "ceil", "real", "imag", "conj", "nextafter",
    )},
    **{name: elementwise(f"jnp.arc{name[1:]}") for name in (
        "asin", "acos", "atan", "asinh", "acosh", "atanh", "atan2",
    )},
    **{name: lax_elementwise(f"lax.{name}") for name in (
        "rsqrt", "erf", "erfc", "erf_inv", "lgamma", "digamma", "bessel_i0e", "bessel_i1e", "sign", "rem", "pow",
        "igamma", "igammac", "igamma_grad_a", "polygamma", "zeta", "shift_right_logical", "shift_right_arithmetic",
        "clz", "population_count", "complex",
    )},
    "regularized_incomplete_beta": lax_elementwise("lax.betainc"),
    "random_gamma_grad": lax_elementwise("lax.random_gamma_grad"),
    "max": elementwise("jnp.maximum"),
    "min": elementwise("jnp.minimum"),
    "logistic": elementwise("jax.nn.sigmoid"),
    "is_finite": elementwise("jnp.isfinite"),
    "round": lax_elementwise("lax.round", "rounding_method"),
    "reduce_precision": lax_elementwise("lax.reduce_precision", "exponent_bits", "mantissa_bits"),
    "square": square,
    "integer_pow": integer_pow,
    "neg": negative,
    "not": inverted,
    "select_n": select,
    "clip": clip,
    "clamp": clamp,
    "bitcast_convert_type": bitcast,
    "convert_element_type": convert,
    "full": full,
    "expand_dims": expand,
    "broadcast_to": broadcast_to,
    "broadcast_in_dim": broadcast_in_dim,
    "reshape": reshape,
    "squeeze": squeeze,
    "transpose": transpose,
    "concatenate": concatenate,
    "pad": pad,
    "rev": rev,
    "slice": slice_,
    "tri": tri,
    "tile": tile,
    "split": split,
    "stack": stack,
    "unstack": unstack,
    "iota": iota,
    "mean": reduction("jnp.mean", "jnp.mean"),
    "reduce_sum": reduction("jnp.sum", "lax.reduce_sum"),
    "reduce_prod": reduction("jnp.prod", "lax.reduce_prod"),
    "reduce_max": reduction("jnp.max", "lax.reduce_max", everywhere=True),
    "reduce_min": reduction("jnp.min", "lax.reduce_min", everywhere=True),
    "reduce_and": reduction("jnp.all", "lax.reduce_and"),
    "reduce_or": reduction("jnp.any", "lax.reduce_or"),
    "reduce_xor": reduction("", "lax.reduce_xor"),
    "argmax": argument("argmax"),
    "argmin": argument("argmin"),
    **{name: cumulative(name) for name in ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")},
    "dot_general": dot_general,
}  # fmt: skip

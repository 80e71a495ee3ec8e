"""Rewrites of operations on shapes: what changes nothing, what broadcasting does by itself, what is turned twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from funcgrad._jax import Var
from funcgrad.inspect.source.program import Equation
from funcgrad.inspect.source.simplify import Rewrite, Rule, Simplifier, instead, like, same_type

#: Operations on each element, whose operands numpy's rules broadcast.
ELEMENTWISE = {
    "add", "sub", "mul", "div", "rem", "pow", "atan2", "max", "min", "eq", "ne", "lt", "le", "gt", "ge", "and", "or",
    "xor", "select_n", "add_any", "nextafter",
}  # fmt: skip


def handed_on(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """Operations that change nothing."""
    x, out = eqn.inputs[0], eqn.outputs[0]
    if not same_type(x, out):
        return None
    params = eqn.params
    if eqn.name == "transpose" and tuple(params["permutation"]) != tuple(range(len(out.aval.shape))):
        return None
    if eqn.name == "reshape" and params.get("dimensions") is not None:
        return None
    if params.get("strides") is not None or any(map(any, params.get("padding_config", ()))):
        return None
    return Rewrite(x)


def broadcast(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """``broadcast_in_dim`` in two steps: new dimensions of size one, and then numpy's broadcasting."""
    x, out = eqn.inputs[0], eqn.outputs[0].aval
    if len(eqn.inputs) != 1 or eqn.params.get("sharding") is not None or not hasattr(x.aval, "shape"):
        return None
    dims, shape = eqn.params["broadcast_dimensions"], out.shape
    if not x.aval.shape:
        if type(x) is Var and shape and set(shape) == {1}:
            return instead(eqn, "expand_dims", x, axes=tuple(range(len(shape))))
        return instead(eqn, "full", x) if shape else Rewrite(x)
    middle = tuple([x.aval.shape[dims.index(i)] if i in dims else 1 for i in range(len(shape))])
    new = tuple([i for i in range(len(shape)) if i not in dims])
    if not new:
        return instead(eqn, "broadcast_to", x)
    expanded = Var(out.update(shape=middle))
    step = like(eqn, "expand_dims", [x], expanded, axes=new)
    if middle == shape:
        return Rewrite(expanded, step)
    if set(new) == set(range(len(new))):
        return instead(eqn, "broadcast_to", x)
    var = Var(out)
    return Rewrite(var, step, like(eqn, "broadcast_to", [expanded], var))


def reshaped(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """Reshapes that add or drop dimensions of size one, and reshapes of reshapes."""
    x, out = eqn.inputs[0], eqn.outputs[0].aval
    if eqn.name == "reshape" and (eqn.params.get("dimensions") is not None or eqn.params.get("sharding") is not None):
        return None
    made = s.maker(x, "reshape", "squeeze", "expand_dims")
    if made is not None and (made.name == "squeeze" or made.params.get("dimensions") is None):
        source = made.inputs[0]
        if same_type(source, eqn.outputs[0]):
            return Rewrite(source)
        if eqn.name == "reshape" or made.name == "reshape":
            return instead(eqn, "reshape", source, new_sizes=out.shape, dimensions=None, sharding=None)
    if eqn.name == "reshape":
        axes = new_axes(x.aval.shape, out.shape)
        if axes:
            return instead(eqn, "expand_dims", x, axes=axes)
        dropped = new_axes(out.shape, x.aval.shape)
        if dropped:
            return instead(eqn, "squeeze", x, dimensions=dropped)
    return None


def squeezed_twice(s: Simplifier, eqn: Equation) -> Rewrite | None:
    made = s.maker(eqn.inputs[0], "squeeze")
    if made is None:
        return None
    left = [i for i in range(made.inputs[0].aval.ndim) if i not in made.params["dimensions"]]
    dims = (*made.params["dimensions"], *(left[i] for i in eqn.params["dimensions"]))
    return instead(eqn, "squeeze", made.inputs[0], dimensions=tuple(sorted(dims)))


def new_axes(shape: Sequence[int], wider: Sequence[int]) -> tuple[int, ...]:
    """The axes of ``wider`` that are of size one and not in ``shape``, none if that is not all the difference."""
    axes, i = [], 0
    for k, size in enumerate(wider):
        if i < len(shape) and shape[i] == size:
            i += 1
        elif size == 1:
            axes.append(k)
        else:
            return ()
    return tuple(axes) if i == len(shape) else ()


def without_broadcast(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """Leave broadcasting to the operator."""
    out = eqn.outputs[0].aval
    inputs = list(eqn.inputs)
    for i, x in enumerate(inputs):
        made = s.maker(x, "broadcast_to", "full", "expand_dims")
        while made is not None:
            source = made.inputs[0]
            if made.name == "expand_dims" and not leading(made):
                break
            others = [y.aval.shape for k, y in enumerate(inputs) if k != i]
            if np.broadcast_shapes(source.aval.shape, *others) != out.shape:
                break
            inputs[i] = source
            made = s.maker(source, "broadcast_to", "full", "expand_dims")
    same = all(x is y for x, y in zip(inputs, eqn.inputs, strict=True))
    return None if same else instead(eqn, eqn.name, *inputs, **eqn.params)


def leading(made: Equation) -> bool:
    """Whether the new dimensions come first, where numpy adds them by itself."""
    return set(made.params["axes"]) == set(range(len(made.params["axes"])))


def turned(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """On the way back, a transposed product as one the other way round; and a transpose of a transpose."""
    (x,) = eqn.inputs
    order = tuple(eqn.params["permutation"])
    made = s.maker(x, "transpose")
    if made is not None:
        first = made.params["permutation"]
        return instead(eqn, "transpose", made.inputs[0], permutation=tuple([first[i] for i in order]))
    made = s.maker(x, "dot_general")
    if made is None or order != (1, 0) or not s.only_use(x) or made.params.get("out_sharding") is not None:
        return None
    (a, b), (batch, _) = made.params["dimension_numbers"]
    if batch or not eqn.backward or made.inputs[0].aval.ndim != made.inputs[1].aval.ndim:
        return None
    params = {**made.params, "dimension_numbers": ((b, a), ((), ()))}
    precision = params.get("precision")
    if isinstance(precision, tuple):
        params["precision"] = precision[::-1]
    return instead(eqn, "dot_general", *reversed(made.inputs), **params)


def product_of_turned(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A product of a transposed matrix as a contraction over its other dimension."""
    (contracted, batch) = eqn.params["dimension_numbers"]
    if batch[0] or any(x.aval.ndim > 2 for x in eqn.inputs) or eqn.params.get("out_sharding") is not None:
        return None
    inputs, dims = list(eqn.inputs), [tuple(c) for c in contracted]
    for i, x in enumerate(inputs):
        made = s.maker(x, "transpose")
        if made is not None and len(dims[i]) == 1:
            inputs[i], dims[i] = made.inputs[0], (1 - dims[i][0],)
    if all(x is y for x, y in zip(inputs, eqn.inputs, strict=True)):
        return None
    return instead(eqn, "dot_general", *inputs, **{**eqn.params, "dimension_numbers": (tuple(dims), batch)})


def summed(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """Sums over dimensions of size one."""
    (x,) = eqn.inputs
    axes, shape = eqn.params["axes"], x.aval.shape
    if all(shape[i] == 1 for i in axes) and eqn.params.get("out_sharding") is None:
        return instead(eqn, "squeeze", x, dimensions=tuple(axes))
    return None


def sign_outside(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A sum or a view of negatives."""
    minus = s.maker(eqn.inputs[0], "neg")
    if minus is None or not s.only_use(eqn.inputs[0]):
        return None
    total, var = Var(eqn.outputs[0].aval), Var(eqn.outputs[0].aval)
    return Rewrite(var, like(eqn, eqn.name, minus.inputs, total, **eqn.params), like(eqn, "neg", [total], var))


REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "mean")


def keeping_dimensions(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A reduction whose dimensions are put back right away, or kept and then dropped."""
    made = s.maker(eqn.inputs[0], *REDUCTIONS)
    keeps = eqn.name != "squeeze"
    if made is None or bool(made.params.get("keepdims")) is keeps or not s.only_use(eqn.inputs[0]):
        return None
    axes, shape = made.params["axes"], made.inputs[0].aval.shape
    kept = tuple([1 if i in axes else n for i, n in enumerate(shape)])
    if eqn.outputs[0].aval.shape != kept if keeps else sorted(eqn.params["dimensions"]) != sorted(axes):
        return None
    return instead(eqn, made.name, made.inputs[0], **{**made.params, "keepdims": keeps})


REWRITES: dict[str, tuple[Rule, ...]] = {
    **dict.fromkeys(ELEMENTWISE, (without_broadcast,)),
    **dict.fromkeys(("convert_element_type", "broadcast_to", "slice", "pad"), (handed_on,)),
    "broadcast_in_dim": (handed_on, broadcast),
    "reshape": (handed_on, reshaped, keeping_dimensions),
    "squeeze": (handed_on, squeezed_twice, sign_outside, keeping_dimensions, reshaped),
    "expand_dims": (handed_on, keeping_dimensions, sign_outside, reshaped),
    "transpose": (handed_on, turned),
    "dot_general": (product_of_turned,),
    "reduce_sum": (summed, sign_outside),
    "mean": (sign_outside,),
    **dict.fromkeys(("reduce_max", "reduce_min"), (summed,)),
}

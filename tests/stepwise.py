"""Programs run one operation after the other, most of them by NumPy.

Nothing is compiled but what NumPy has no word for, and that once, however many programs have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.extend.core.primitives import cond_p, custom_jvp_call_p, jit_p, linear_solve_p, remat_p, scan_p, while_p

from funcgrad import _jax
from funcgrad.programs.evaluation import evaluate


def stepwise(f: Callable) -> Callable:
    """``f`` traced as a whole, as under ``jit``, and run step by step, with calls, branches and loops spelled out."""

    def run(*args: Any) -> Any:
        program, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
        with np.errstate(all="ignore"):
            return jax.tree.unflatten(jax.tree.structure(shapes), run_all(program, *jax.tree.leaves(args)))

    return run


def run_all(program: Any, *args: Any) -> list[Any]:
    return evaluate(program, *args, run=run_one)


def run_one(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    primitive, params = eqn.primitive, eqn.params
    if primitive in CARRIERS and params.get("length") != 0:
        return CARRIERS[primitive](params, values)
    aval = eqn.outvars[0].aval
    if primitive.name in NUMPY and isinstance(getattr(aval, "dtype", None), np.dtype):
        # NumPy makes numbers of arrays without dimensions.
        return [np.asarray(NUMPY[primitive.name](*map(np.asarray, values), **params), aval.dtype)]
    return _jax.run_here()(eqn, values)


def called(params: dict[str, Any], values: Sequence[Any]) -> Sequence[Any]:
    program = params.get("call_jaxpr", params.get("jaxpr"))
    return run_all(program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, ()), *values)


def branched(params: dict[str, Any], values: Sequence[Any]) -> Sequence[Any]:
    branches, (which, *values) = params["branches"], values
    return run_all(branches[min(max(int(which), 0), len(branches) - 1)], *values)


def scanned(params: dict[str, Any], values: Sequence[Any]) -> Sequence[Any]:
    num_consts, num_carry = _jax.scan_layout(params)
    fixed, carry, xs = values[:num_consts], values[num_consts:][:num_carry], values[num_consts + num_carry :]
    rows, steps, order = [np.asarray(x) for x in xs], [], slice(None, None, -1 if params["reverse"] else 1)
    for i in range(params["length"])[order]:
        outs = run_all(params["jaxpr"], *fixed, *carry, *(x[i] for x in rows))
        carry = outs[:num_carry]
        steps.append(outs[num_carry:])
    return [*carry, *map(np.stack, zip(*steps[order], strict=True))]


def repeated(params: dict[str, Any], values: Sequence[Any]) -> Sequence[Any]:
    n, m = params["cond_nconsts"], params["body_nconsts"]
    test, fixed, carry = values[:n], values[n:][:m], values[n + m :]
    while run_all(params["cond_jaxpr"], *test, *carry)[0]:
        carry = run_all(params["body_jaxpr"], *fixed, *carry)
    return carry


def solved(params: dict[str, Any], values: Sequence[Any]) -> Sequence[Any]:
    start = sum(params["const_lengths"][:2])
    fixed = values[start:][: params["const_lengths"].solve]
    return run_all(params["jaxprs"].solve, *fixed, *values[sum(params["const_lengths"]) :])


CARRIERS = {
    jit_p: called, remat_p: called, custom_jvp_call_p: called, linear_solve_p: solved,
    cond_p: branched, scan_p: scanned, while_p: repeated,
}  # fmt: skip


def broadcast(x: np.ndarray, shape: Sequence[int], broadcast_dimensions: Sequence[int], **_: Any) -> np.ndarray:
    sizes = [1] * len(shape)
    for d, size in zip(broadcast_dimensions, x.shape, strict=True):
        sizes[d] = size
    return np.broadcast_to(x.reshape(sizes), shape)


def product(x: np.ndarray, y: np.ndarray, dimension_numbers: Any, **_: Any) -> np.ndarray:
    (summed, summed_too), (batch, batch_too) = dimension_numbers
    of_x, of_y = list(range(x.ndim)), list(range(x.ndim, x.ndim + y.ndim))
    for d, e in zip((*summed, *batch), (*summed_too, *batch_too), strict=True):
        of_y[e] = of_x[d]
    free = [i for d, i in enumerate(of_x) if d not in (*summed, *batch)]
    free += [i for d, i in enumerate(of_y) if d not in (*summed_too, *batch_too)]
    return np.einsum(x, of_x, y, of_y, [of_x[d] for d in batch] + free)


def along(function: Callable) -> Callable:
    def run(x: np.ndarray, axis: int, reverse: bool, **_: Any) -> np.ndarray:
        order = (*[slice(None)] * axis, slice(None, None, -1 if reverse else 1))
        return function(x[order], axis)[order]

    return run


def select(which: np.ndarray, *cases: np.ndarray, **_: Any) -> np.ndarray:
    return np.choose(which, cases)


def reshape(x: np.ndarray, new_sizes: Sequence[int], dimensions: Any, **_: Any) -> np.ndarray:
    return (x if dimensions is None else x.transpose(dimensions)).reshape(new_sizes)


NUMPY: dict[str, Callable] = {
    **{
        name: lambda *xs, f=function, **_: f(*xs)
        for name, function in dict(
            add=np.add, add_any=np.add, sub=np.subtract, mul=np.multiply, neg=np.negative, sqrt=np.sqrt, max=np.maximum,
            min=np.minimum, abs=np.abs, sign=np.sign, eq=np.equal, ne=np.not_equal, lt=np.less, le=np.less_equal,
            gt=np.greater, ge=np.greater_equal, convert_element_type=np.asarray, copy=np.asarray, square=np.square,
        ).items()
    },
    "broadcast_in_dim": broadcast,
    "cumsum": along(np.cumsum),
    "div": lambda x, y, **_: np.divide(x, y) if x.dtype.kind in "fc" else np.fix(x / y),
    "dot_general": product,
    "iota": lambda shape, dimension, **_: np.indices(shape)[dimension],
    "reduce_sum": lambda x, axes, **_: np.sum(x, axes),
    "reshape": reshape,
    "rev": lambda x, dimensions: np.flip(x, dimensions),
    "select_n": select,
    "slice": lambda x, start_indices, limit_indices, strides: (
        x[tuple(map(slice, start_indices, limit_indices, strides or [1] * x.ndim))]
    ),
    "squeeze": lambda x, dimensions: np.squeeze(x, dimensions),
    "transpose": lambda x, permutation: np.transpose(x, permutation),
}  # fmt: skip

"""Sorting and selecting by rank: outputs are operands in another order, and cotangents go back the way they came."""

from __future__ import annotations

from jax import lax

from funcgrad import _jax
from funcgrad._jax import set_current_trace
from funcgrad.rules.numbers import counting, zeros_for
from funcgrad.rules.plan import check_linear
from funcgrad.rules.rule import Rule, joint

IN_BOUNDS = lax.GatherScatterMode.PROMISE_IN_BOUNDS
DROP = lax.GatherScatterMode.FILL_OR_DROP


def put(ct, places, aval, axis, **how):
    """Zeros of type ``aval`` with ct added at ``places`` along an axis: the transpose of taking entries from there."""
    others = tuple([d for d in range(ct.ndim) if d != axis])
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=(),
        inserted_window_dims=(axis,),
        scatter_dims_to_operand_dims=(axis,),
        operand_batching_dims=others,
        scatter_indices_batching_dims=others,
    )
    return lax.scatter_add(zeros_for(ct, aval), lax.expand_dims(places, [ct.ndim]), ct, numbers, **how)


class Sort(Rule):
    """The places the entries came from are sorted along, and are all that is saved."""

    formula = "ct, put where the entries came from"
    saved = ("places",)

    def record(self, tape, primitive, primals, tracers, params, linear):
        check_linear(primitive, primals)
        shape, dimension = primals[0].shape, params["dimension"]
        dtype, sharding = counting(shape[dimension]), _jax.explicit_sharding(_jax.typeof(primals[0]))
        with set_current_trace(tape.parent):
            numbers = lax.broadcasted_iota(dtype, shape, dimension, out_sharding=sharding)
            *outs, places = lax.sort_p.bind(*primals, numbers, **params)
        active = [t is not None for t in tracers]
        return tape.emit(self, primitive, params, active, (places,), tracers, outs, active=active)

    def pullback(self, node, cts):
        (places,) = node.residuals
        moved = [ct for ct, active in zip(cts, node.static, strict=True) if active]
        how = dict(unique_indices=True, mode=IN_BOUNDS)
        return [
            None if ct is None else put(ct, places, aval, node.params["dimension"], **how)
            for ct, aval in zip(moved, node.avals, strict=True)
        ]


def top_k(cts, places, x_aval, *, axis):
    return [put(cts[0], places, x_aval, axis, unique_indices=True, mode=IN_BOUNDS)]


def approx_top_k(cts, places, x_aval, *, reduction_dimension):
    """ct, put where the entries came from; a slot of the result that stayed empty has no place."""
    return [put(cts[0], places, x_aval, reduction_dimension % len(x_aval.shape), mode=DROP)]


rules = {
    lax.sort_p: Sort(),
    lax.top_k_p: joint(top_k, places=lambda outs: outs[1]),
    lax.approx_top_k_p: joint(approx_top_k, places=lambda outs: outs[1]),
}

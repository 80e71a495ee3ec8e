"""Primitives that are not JAX's own: hijax primitives with their own rules, and the fallback to JAX's tables.

A primitive from another package may come with a JVP rule for ``jax.interpreters.ad``. Run on the tape with tangents for
arguments, such a rule records its transpose like any custom JVP rule does; where it ends in a primitive applied to a
tangent, that primitive's own transposition rule pulls back.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

import jax

from funcgrad import _jax
from funcgrad._jax import set_current_trace
from funcgrad.engine.tape import abstract_outputs
from funcgrad.engine.zero import Zero
from funcgrad.rules.control.carrier import wanted_among
from funcgrad.rules.control.custom import follow, tangent, with_tangent
from funcgrad.rules.rule import Rule

PASS_ONE = "Pass a rule for it: rules=fg.rules.default.override({primitive: rule})."


def here() -> str:
    """Where the current operation is in the user's code."""
    line: str = _jax.user_line(_jax.current_source())
    return line


class Foreign(Rule):
    """The rules that JAX's tables have for a primitive."""

    formula = "JAX's own rule for the primitive"
    saved = ("residuals",)

    def record(self, tape, primitive, primals, tracers, params, linear):
        if linear:
            return self.record_linear(tape, primitive, primals, tracers, params)
        # As JAX gives them: in tuples.
        primals = tuple(primals)
        tangents = tuple(
            _jax.JaxZero(_jax.typeof(x).to_tangent_aval()) if t is None else tangent(tape, x, t, False)
            for x, t in zip(primals, tracers, strict=True)
        )
        if primitive in _jax.foreign_linearizations and primitive is not _jax.call_hi_primitive_p:
            outs, tangents_out = self.linearize(tape, primitive, primals, tangents, params)
        elif primitive in _jax.foreign_jvps:
            with set_current_trace(tape):
                outs, tangents_out = _jax.foreign_jvps[primitive](primals, tangents, **params)
        else:
            raise NotImplementedError(
                f"Differentiation rule for '{primitive}' not implemented, used at {here()}. {PASS_ONE}"
            )
        follow(tracers, tangents)
        if not primitive.multiple_results:
            outs, tangents_out = [outs], [tangents_out]
        if any(type(tape.strip(x)[0]) is Zero for x in outs):
            raise ValueError(
                "Linearization failed to produce known values for all output primals: the JVP rule of "
                f"'{primitive}', used at {here()}, computes values and tangents in one operation, so it can be used in "
                f"forward mode only. {PASS_ONE}"
            )
        outs = [with_tangent(tape, x, t) for x, t in zip(outs, tangents_out, strict=True)]
        return outs if primitive.multiple_results else outs[0]

    def linearize(self, tape, primitive, primals, tangents, params):
        nonzero = [not _jax.is_symbolic_zero(t) for t in tangents]
        with set_current_trace(tape.parent):
            # Since jax 0.12 residuals come in two groups.
            linearization = _jax.foreign_linearizations[primitive](True, nonzero, *primals, **params)
            outs, _, *residuals, linear_map = linearization
        with set_current_trace(tape):
            return outs, linear_map(*residuals, *tangents)

    def record_linear(self, tape, primitive, primals, tracers, params):
        if primitive not in _jax.foreign_transposes and primitive not in _jax.foreign_accumulations:
            raise NotImplementedError(
                f"Transpose rule (for reverse-mode differentiation) for '{primitive}' not implemented, used at "
                f"{here()}: it comes with a JVP rule only. {PASS_ONE}"
            )
        outs: Any = [Zero(aval) for aval in abstract_outputs(primitive, primals, params)]
        residuals = tuple([None if t is not None else x for x, t in zip(primals, tracers, strict=True)])
        outs = outs if primitive.multiple_results else outs[0]
        return tape.emit(self, primitive, params, [t is not None for t in tracers], residuals, tracers, outs)

    def pullback(self, node, cts):
        avals = iter(node.avals)
        operands = [next(avals) if a else x for x, a in zip(node.residuals, node.static, strict=True)]
        out_avals = abstract_outputs(node.primitive, operands, node.params)
        cts = [_jax.JaxZero(aval.to_ct_aval()) if ct is None else ct for ct, aval in zip(cts, out_avals, strict=True)]
        cts = cts if node.primitive.multiple_results else cts[0]
        pairs = list(zip(operands, node.static, strict=True))
        if node.primitive in _jax.foreign_accumulations:
            wanted = wanted_among(node, node.static)
            sums = [_jax.accumulator(x.to_ct_aval(), w) if a else x for (x, a), w in zip(pairs, wanted, strict=True)]
            _jax.foreign_accumulations[node.primitive](cts, *sums, **node.params)
            pulled = frozen(sums, node.static, wanted)
        else:
            undefined = [_jax.UndefinedPrimal(x) if a else x for x, a in pairs]
            transposed = _jax.foreign_transposes[node.primitive](cts, *undefined, **node.params)
            pulled = [ct for ct, a in zip(transposed, node.static, strict=True) if a]
        return [None if _jax.is_symbolic_zero(ct) else ct for ct in pulled]


def frozen(sums: Sequence[Any], active: Sequence[bool], wanted: Sequence[bool]) -> list[Any]:
    """The cotangents of active operands, from what they were added to."""
    return [s.freeze() if w else None for s, a, w in zip(sums, active, wanted, strict=True) if a]


class Hijax(Rule):
    """A hijax primitive: a Python object with a ``vjp_fwd`` and a ``vjp_bwd`` of its own, or else a ``jvp``."""

    formula = "the primitive's own vjp_bwd"
    saved = ("residuals",)

    def __init__(self, checkpointed: bool = False):
        #: Whether this is inside of a checkpointed function.
        self.checkpointed = checkpointed

    def record(self, tape, primitive, primals, tracers, params, linear):
        prim = params["_prim"]
        if _jax.goes_by_jvp(prim, self.checkpointed):
            return FOREIGN.record(tape, primitive, primals, tracers, params, linear)
        primals = tape.values(primals)
        active = [t is not None for t in tracers]
        with set_current_trace(tape.parent):
            operands = jax.tree.unflatten(prim.in_tree, primals)
            wanted = jax.tree.unflatten(prim.in_tree, active)
            out, residuals, *rest = _jax.way_forward(prim, wanted, operands, self.checkpointed)
        outs = prim.out_tree.flatten_up_to(out)
        out_active = _jax.broadcast_prefix(rest[0] if rest else True, out)
        # Since jax 0.12 residuals come in one group or two.
        leaves, tree = jax.tree.flatten([residuals, *(group for group in rest[1:] if group is not None)])
        if linear:
            outs = [Zero(_jax.typeof(x)) for x in outs]
        return tape.emit(self, primitive, params, (tree, active), tuple(leaves), tracers, list(outs), active=out_active)

    def pullback(self, node, cts):
        prim, (tree, active) = node.params["_prim"], node.static
        cts = [
            _jax.JaxZero(aval.to_ct_aval()) if ct is None else ct
            for ct, aval in zip(cts, prim.out_avals_flat, strict=True)
        ]
        wanted = wanted_among(node, active)
        sums = [_jax.accumulator(aval.to_ct_aval(), w) for aval, w in zip(prim.in_avals_flat, wanted, strict=True)]
        residuals = jax.tree.unflatten(tree, node.residuals)
        prim.vjp_bwd(*residuals, jax.tree.unflatten(prim.out_tree, cts), *jax.tree.unflatten(prim.in_tree, sums))
        pulled = frozen(sums, active, wanted)
        return [None if _jax.is_symbolic_zero(ct) else ct for ct in pulled]


#: The fallback, for any primitive of JAX's tables that a rule table has no rule for.
FOREIGN = Foreign()

#: Of the primitives that come with JAX, those left to the fallback, and why.
REASONS = {
    "sparse matrices, whose rules know their layout (jax.experimental.sparse)": (
        "bcoo_*", "bcsr_*", "coo_*", "csr_*", "spsolve", "todense",
    ),
    "kernels, which can be differentiated in forward mode only (jax.experimental.pallas)": (
        "pallas_call", "mpmd_map", "masked_load", "masked_swap", "run_state", "get_global",
    ),
    "code that is not JAX's and has no derivative: JAX's rule is its error (jax.ffi)": ("ffi_call", "buffer_callback"),
    "programs carried for the compiler's sake (jax.experimental.compute_on, scheduling_groups, fused)": (
        "compute_on", "xla_metadata_call", "fused_call",
    ),
    "where an array lies, which is left to the compiler (jax.sharding, jax.memory)": (
        "relayout", "with_memory_space_constraint",
    ),
    "arrays spread over processes (jax.experimental.multihost_utils)": (
        "global_array_to_host_local_array", "host_local_array_to_global_array",
    ),
    "mutable Python objects, which JAX cannot differentiate in reverse mode either (jax.experimental.hijax)": (
        "new_box", "box_get", "box_set", "new_log", "log_read", "log_extend",
    ),
    "what jax.linearize leaves of a custom_vjp function; it can only be transposed": ("custom_lin",),
}  # fmt: skip


def reason(primitive: Any) -> str | None:
    """Why a primitive that comes with JAX is left to the fallback, None where that is not foreseen."""
    name = str(primitive)
    return next((why for why, names in REASONS.items() if any(fnmatch(name, n) for n in names)), None)


HIJAX, CHECKPOINTED = Hijax(), Hijax(checkpointed=True)


def checkpointed(rules: Any) -> Any:
    """The rules that hold inside of a checkpointed function."""
    if rules.of_primitive(_jax.call_hi_primitive_p) is not HIJAX:
        return rules
    return rules.replacing({_jax.call_hi_primitive_p: CHECKPOINTED})


rules = {_jax.call_hi_primitive_p: HIJAX}

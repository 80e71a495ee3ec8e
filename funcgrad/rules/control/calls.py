"""Calls: programs run in place, linear functions with a transpose of their own, and linear solves."""

from __future__ import annotations

from typing import Any

from jax import lax

from funcgrad import _jax
from funcgrad._jax import set_current_trace
from funcgrad.engine.split import Activity, run, split
from funcgrad.programs.evaluation import evaluate
from funcgrad.rules.control.carrier import wanted_among
from funcgrad.rules.rule import Rule


class InPlace(Rule):
    """A program carried for another transformation's sake runs on the tape as if written out."""

    formula = "the rules of the operations inside"

    def __init__(self, *names: str):
        #: What the parameter that holds the program is called; one name or another, by version of JAX.
        self.names = names

    def record(self, tape, primitive, primals, tracers, params, linear):
        program = next(params[name] for name in self.names if name in params)
        return run(tape, program, [x if t is None else t for x, t in zip(primals, tracers, strict=True)])


class LinearCall(Rule):
    """``linear_call(f, transpose, residuals, x)``: the user gave the transpose."""

    formula = "the function's own transpose"
    saved = ("residuals",)

    def record(self, tape, primitive, primals, tracers, params, linear):
        first = params["num_callee_consts"] + params["num_res"]
        tracers = [None if i < first else t for i, t in enumerate(tracers)]
        outs = tape.evaluate(primitive, primals, params, linear)
        active = [t is not None for t in tracers[first:]]
        return tape.emit(self, primitive, params, active, tuple(primals[:first]), tracers, outs)

    def pullback(self, node, cts):
        params = node.params
        transpose, consts = params["transpose_thunk"]()
        consts_f, residuals = (
            node.residuals[: params["num_callee_consts"]],
            node.residuals[params["num_callee_consts"] :],
        )
        avals = transpose.in_avals[len(consts) + len(residuals) :]
        cts = [_jax.zeros(aval) if ct is None else ct for ct, aval in zip(cts, avals, strict=True)]
        callee = params["callee"]
        pulled = node.primitive.bind(
            *consts, *residuals, *cts,
            callee=transpose,
            transpose_thunk=lambda: (callee, list(consts_f)),
            num_callee_consts=len(consts),
            num_res=len(residuals),
        )  # fmt: skip
        return [ct for ct, active in zip(pulled, node.static, strict=True) if active]


class LinearSolve(Rule):
    """``custom_linear_solve``: x with A x = b.

    The cotangent of b solves the transposed system, A^T b_ct = x_ct, and that of what A is made of is the pullback, at
    x, of -A x with b_ct. How either system is solved is not differentiated.
    """

    formula = "b_ct = A^-T ct; A_ct = -b_ct x^T"
    saved = ("A", "x")

    def record(self, tape, primitive, primals, tracers, params, linear):
        lengths, jaxprs = params["const_lengths"], params["jaxprs"]
        first, count = lengths.matvec, len(jaxprs.matvec.out_avals)
        outs = tape.evaluate(primitive, primals, params, linear)
        start = sum(lengths)
        wanted = [t if i < first or i >= start else None for i, t in enumerate(tracers)]
        active = tuple([t is not None for t in wanted[:first]])
        x = outs[:count] if any(active) else []
        out_active = [i < count for i in range(len(outs))]
        static = (active, [t is not None for t in wanted[start:]])
        consts = tuple(tape.values(primals[:start]))
        return tape.emit(self, primitive, params, (static, tape.rules), (*consts, *x), wanted, outs, active=out_active)

    def pullback(self, node, cts):
        (active, b_active), rules = node.static
        lengths, jaxprs = node.params["const_lengths"], node.params["jaxprs"]
        if jaxprs.transpose_solve is None:
            raise TypeError(
                "transpose_solve required for backwards mode automatic differentiation of custom_linear_solve: pass "
                "it, or symmetric=True."
            )
        start, count = sum(lengths), len(jaxprs.matvec.out_avals)
        consts, x = node.residuals[:start], node.residuals[start:]
        avals = jaxprs.matvec.out_avals
        x_cts = [_jax.zeros(aval.to_ct_aval()) if ct is None else ct for ct, aval in zip(cts, avals, strict=False)]
        groups, rest = [], list(consts)
        for length in lengths:
            groups.append(rest[:length])
            rest = rest[length:]
        matvec, vecmat, solve, transpose_solve = groups
        b_cts = node.primitive.bind(
            *vecmat, *matvec, *transpose_solve, *solve, *x_cts,
            const_lengths=lengths.transpose(),
            jaxprs=jaxprs.transpose(),
        )[:count]  # fmt: skip
        pulled: list[Any] = [None] * sum(active)
        wanted = wanted_among(node, active)
        if any(wanted):
            activity = (*map(Activity, active), *[Activity.NONE] * count)
            halves = split(jaxprs.matvec, activity, rules)
            residuals = halves.residuals([*matvec, *x], evaluate(halves.forward, *matvec, *x))
            found = halves.pull(residuals, [lax.neg(ct) for ct in b_cts], [*wanted, *[False] * count])
            pulled = [ct for ct, a in zip(found, active, strict=False) if a]
        return [*pulled, *(ct for ct, a in zip(b_cts, b_active, strict=True) if a)]


class Refused(Rule):
    """A primitive that JAX itself refuses to differentiate."""

    def __init__(self, error: type[Exception], message: str):
        self.error, self.message = error, message
        self.formula = f"none: {error.__name__}"

    def record(self, tape, primitive, primals, tracers, params, linear):
        raise self.error(self.message)


class Effect(Rule):
    """An operation run for its effect, on the way forward and once."""

    formula = "no derivative"

    def record(self, tape, primitive, primals, tracers, params, linear):
        with set_current_trace(tape.parent):
            return primitive.bind(*tape.values(primals), **params)


USE_CUSTOM_JVP = "Please use `jax.custom_jvp` to use callbacks while taking gradients."

rules = {
    _jax.eval_jaxpr_p: InPlace("jaxpr", "call_jaxpr"),
    _jax.remat_opt_p: InPlace("fwd_jaxpr"),
    _jax.linear_call_p: LinearCall(),
    lax.linear_solve_p: LinearSolve(),
    _jax.pure_callback_p: Refused(ValueError, f"Pure callbacks do not support JVP. {USE_CUSTOM_JVP}"),
    _jax.io_callback_p: Refused(ValueError, "IO callbacks do not support JVP."),
    _jax.custom_vmap_p: Refused(
        ValueError,
        "Linearization failed to produce known values for all output primals: a custom_vmap function says how it is "
        "batched, not how its batched form is differentiated. Wrap it in jax.custom_vjp or jax.custom_jvp.",
    ),
    _jax.composite_p: Refused(
        ValueError,
        "JVP rule for composite not implemented. You can use `jax.custom_jvp` to add support. See "
        "https://docs.jax.dev/en/latest/_autosummary/jax.custom_jvp.html",
    ),
    **dict.fromkeys([_jax.debug_callback_p, _jax.debug_print_p, _jax.inspect_sharding_p, _jax.check_p], Effect()),
    **dict.fromkeys([lax.create_token_p, lax.after_all_p], Effect()),
}

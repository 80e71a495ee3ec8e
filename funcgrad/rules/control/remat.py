"""``jax.checkpoint``: keep the inputs and what the policy names, and compute the rest again on the way back.

The program is split as any other. Of its forward half, the values that the policy calls saveable are returned besides
the outputs; the rest of it that the residuals need runs again, right before the backward half, inside one
``checkpoint`` equation of its own that keeps XLA from sharing work between the two passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal, Var, remat_p, set_current_trace
from funcgrad.engine.split import Activity, split, typed_cotangents, written_refs
from funcgrad.engine.tape import is_differentiable
from funcgrad.engine.zero import Zero
from funcgrad.programs.flow import evaluate, read_outside, slice_program
from funcgrad.rules.control.saving import Saved, expose, inline_jits, round_saved
from funcgrad.rules.rule import Rule


class Remat(Rule):
    formula = "the forward half again, then the backward half"
    saved = ("xs",)

    def record(self, tape, primitive, primals, tracers, params, linear):
        refused = _jax.effects_refused_by_remat(params["jaxpr"].effects)
        if refused:
            raise NotImplementedError(
                f"Effects not supported in partial-eval of `checkpoint`/`remat`: {refused}. Move them out of the "
                "checkpointed function: it runs twice."
            )
        primals = tape.values(primals)
        active = tuple([t is not None for t in tracers])
        halves = split_remat(_jax.close(params["jaxpr"]), active, tape.rules, params["policy"])
        with set_current_trace(tape.parent):
            results = evaluate(halves.forward, *primals)
            outs, kept = results[: halves.num_outs], results[halves.num_outs :]
            kept = [send(x) for send, x in zip(halves.send, kept, strict=True)]
        residuals = (*(primals[i] for i in halves.used_inputs), *kept)
        if linear:
            outs = [Zero(_jax.typeof(x)) if a else x for x, a in zip(outs, halves.split.out_active, strict=True)]
        outs = tape.emit(self, primitive, params, halves, residuals, tracers, outs, active=halves.split.out_active)
        tape.write(written_refs(halves.split, tracers))
        return outs

    def pullback(self, node, cts):
        halves, params = node.static, node.params
        cts, ct_avals = typed_cotangents(cts, halves.split.ct_avals)
        count = len(halves.used_inputs)
        kept = [fetch(x) for fetch, x in zip(halves.fetch, node.residuals[count:], strict=True)]
        operands = [*node.residuals[:count], *kept, *(ct for ct in cts if ct is not None)]
        program, mask = halves.backward(tuple(map(_jax.typeof, operands)), ct_avals)
        barrier = params["prevent_cse"]
        if isinstance(barrier, tuple):
            barrier = tuple([barrier[i] for i in halves.used_inputs])
            barrier = (False,) * len(program.consts) + barrier + (True,) * (len(operands) - count)
        results = iter(
            remat_p.bind(
                *program.consts,
                *operands,
                **{**params, "jaxpr": _jax.opened(program), "prevent_cse": barrier, "differentiated": True},
            )
        )
        return [next(results) if has else None for has in mask]


class RematHalves:
    """A checkpointed program split, with what is kept and what is computed again."""

    def __init__(self, program: ClosedJaxpr, active: tuple[bool, ...], rules: Any, policy: Callable | None):
        activity = tuple([Activity(a and is_differentiable(v)) for a, v in zip(active, program.in_avals, strict=True)])
        self.split = split(program, activity, rules)
        self.num_outs = len(program.out_avals)
        forward = self.split.forward
        saved: dict[Var, Saved] = {}
        fed = forward
        if policy is not None:
            forward, fed, saved = expose(inline_jits(forward), policy)
        saved = {**dict.fromkeys(read_outside(forward), Saved(None, None)), **saved}
        jaxpr = forward.jaxpr
        groups = {"in": jaxpr.invars, "out": jaxpr.outvars, "new": jaxpr.outvars[self.num_outs :]}
        wanted = [groups[kind][i] for kind, i in self.split.sources]

        def runs_again(eqn: Any) -> bool:
            return _jax.is_for_debugging(eqn) and (policy is None or _jax.policy_decision(policy, eqn) is None)

        read = variables_read(slice_program(fed, wanted, list(saved), keep=runs_again))
        kept = [v for v in saved if v in read or saved[v].alias in read]
        self.send = [saved[v].send for v in kept]
        self.fetch = [saved[v].fetch for v in kept]
        # A named value and the value it names are one, so either stands for both.
        self.given = [(k, u) for k, v in enumerate(kept) for u in (v, saved[v].alias) if u is not None]
        again = slice_program(fed, wanted, [u for _, u in self.given], keep=runs_again)
        read = variables_read(again)
        self.used_inputs = [i for i, v in enumerate(jaxpr.invars) if v in read]
        inputs = [jaxpr.invars[i] for i in self.used_inputs]
        self.again = again.replace(jaxpr=again.jaxpr.replace(invars=[*inputs, *(u for _, u in self.given)]))
        outvars = [*jaxpr.outvars[: self.num_outs], *kept]
        ahead = slice_program(forward, outvars, keep=lambda eqn: bool(eqn.effects))
        self.forward = _jax.without_dead_code(round_saved(ahead, kept))
        self._backwards: dict[tuple, tuple[ClosedJaxpr, list[bool]]] = {}

    def backward(self, avals: tuple, ct_avals: tuple) -> tuple[ClosedJaxpr, list[bool]]:
        known = self._backwards.get((avals, ct_avals))
        if known is not None:
            return known
        mask: list[bool] = []
        first, last = len(self.used_inputs), len(self.used_inputs) + len(self.send)

        def backward(*operands: Any) -> list[Any]:
            inputs, kept, rest = operands[:first], operands[first:last], iter(operands[last:])
            with jax.named_scope("rematted_computation"):
                residuals = evaluate(self.again, *inputs, *(kept[k] for k, _ in self.given))
            pulled = self.split.pull(residuals, [None if aval is None else next(rest) for aval in ct_avals])
            mask.extend(ct is not None for ct in pulled)
            return [ct for ct in pulled if ct is not None]

        program = _jax.without_dead_code(_jax.trace_to_jaxpr(backward, avals, self.forward.jaxpr.debug_info))
        known = self._backwards[avals, ct_avals] = program, mask
        return known


def variables_read(program: ClosedJaxpr) -> set[Var]:
    atoms = [x for eqn in program.jaxpr.eqns for x in eqn.invars]
    return {x for x in (*atoms, *program.jaxpr.outvars) if type(x) is not Literal}


@_jax.weakref_lru_cache
def split_remat(program, active: tuple[bool, ...], rules, policy) -> RematHalves:
    return RematHalves(program, active, rules, policy)


rules = {remat_p: Remat()}

"""``jax.checkpoint``: keep the inputs and what the policy names, and compute the rest again on the way back.

The program is split as any other. Of its forward half, the values that the policy calls saveable are returned besides
the outputs; the rest of it that the residuals need runs again, right before the backward half, inside one
``checkpoint`` equation of its own that keeps XLA from sharing work between the two passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import lax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Jaxpr, Var
from funcgrad.engine.split import Activity, split
from funcgrad.programs.cut import cheapest
from funcgrad.programs.evaluation import evaluate, inline_jits
from funcgrad.programs.expose import Saved, expose, round_saved
from funcgrad.programs.flow import read_outside, size, slice_program, taking, variables_read
from funcgrad.programs.memo import kept, memo
from funcgrad.programs.waiting import CHECKPOINTS, compute_again
from funcgrad.rules.control.carrier import Carrier, Halves, present, spread
from funcgrad.rules.control.foreign import checkpointed


class Remat(Carrier):
    formula = "the forward half again, then the backward half"
    saved = ("xs",)

    def halves(self, tape, params, activity):
        program = params["jaxpr"]
        refused = _jax.effects_refused_by_remat(program.effects)
        if refused:
            raise NotImplementedError(
                f"Effects not supported in partial-eval of `checkpoint`/`remat`: {refused}. Move them out of the "
                "checkpointed function: it runs twice."
            )
        rules = tape.rules.derived(checkpointed) if program.is_high else tape.rules
        return split_remat(program, activity, rules, params["policy"])

    def forward(self, halves, primitive, primals, params):
        results = evaluate(halves.forward, *primals)
        count = len(halves.out_avals)
        saved = [send(x) for send, x in zip(halves.send, results[count:], strict=True)]
        return results[:count], (*(primals[i] for i in halves.used_inputs), *saved)

    def backward(self, node, halves, cts, ct_avals, wanted):
        inputs, saved = self.fetched(node)
        operands = [*inputs, *saved, *present(cts)]
        program, mask = halves.backward(_jax.types_of(operands), ct_avals, wanted)
        barrier = node.params["prevent_cse"]
        if isinstance(barrier, tuple):
            barrier = tuple([barrier[i] for i in halves.used_inputs])
            barrier = (False,) * len(program.consts) + barrier + (True,) * (len(operands) - len(inputs))
        changed = {"jaxpr": _jax.opened(program), "prevent_cse": barrier, "differentiated": True}
        run = compute_again if halves.again.jaxpr.eqns else _jax.remat_p.bind
        return spread(run(*program.consts, *operands, **{**node.params, **changed}), mask)

    def fetched(self, node: Any) -> tuple[Sequence[Any], list[Any]]:
        """The inputs that are used again, and the saved values, from wherever they were put."""
        halves, count = node.static[0], len(node.static[0].used_inputs)
        saved = [fetch(x) for fetch, x in zip(halves.fetch, node.residuals[count:], strict=True)]
        return node.residuals[:count], saved

    def kept(self, node):
        return node.static[0].again.out_avals

    def needed(self, node):
        inputs, saved = self.fetched(node)
        # So that a compiler does not take what is computed again for what was computed before.
        return node.static[0].run_again(lax.optimization_barrier(list(inputs)), saved)


class RematHalves(Halves):
    """A checkpointed program split, with what is kept and what is computed again."""

    def __init__(self, program: Any, activity: tuple[Activity, ...], rules: Any, policy: Callable | None):
        super().__init__(split(program, activity, rules))
        forward, count = self.split.forward, len(self.out_avals)
        saved: dict[Var, Saved] = {}
        fed = forward
        if policy is not None:
            forward, fed, saved = expose(inline_jits(forward), policy)
        saved = {**dict.fromkeys(read_outside(forward), Saved(None)), **saved}
        jaxpr = forward.jaxpr
        wanted = self.split.residuals(jaxpr.invars, fed.jaxpr.outvars)

        def runs_again(eqn: Any) -> bool:
            if not _jax.is_for_debugging(eqn):
                return False
            # A policy that saves what is shown, and would save the showing, is content with once.
            shows_saved = any(type(x) is Var and x in saved for x in eqn.invars)
            return policy is None or not shows_saved or _jax.policy_decision(policy, eqn) is None

        read = variables_read(slice_program(fed, wanted, list(saved), keep=runs_again))
        kept = [v for v in saved if v in read]
        if policy is not None:
            kept = closest(slice_program(fed, wanted, kept, keep=runs_again), saved)
            saved = {**dict.fromkeys(kept, Saved(None)), **saved}
        self.send = [saved[v].send for v in kept]
        self.fetch = [saved[v].fetch for v in kept]
        again = slice_program(fed, wanted, kept, keep=runs_again)
        read = variables_read(again)
        self.used_inputs = [i for i, v in enumerate(jaxpr.invars) if v in read]
        self.again = taking(again, [*(jaxpr.invars[i] for i in self.used_inputs), *kept])
        ahead = slice_program(forward, [*jaxpr.outvars[:count], *kept], keep=lambda eqn: bool(eqn.effects))
        self.forward = _jax.without_dead_code(round_saved(ahead, kept))

    def run_again(self, inputs: Sequence[Any], saved: Sequence[Any]) -> list[Any]:
        """The residuals of the split, computed again."""
        return evaluate(self.again, *inputs, *saved)

    @kept
    def backward(self, avals: tuple, ct_avals: tuple, wanted: tuple[bool, ...]) -> tuple[Any, list[bool]]:
        """The program of the way back, from inputs, saved values and cotangents of types ``avals``."""
        mask: list[bool] = []
        first, last = len(self.used_inputs), len(self.used_inputs) + len(self.send)

        def backward(*operands: Any) -> list[Any]:
            with jax.named_scope("rematted_computation"):
                residuals = self.run_again(operands[:first], operands[first:last])
            cts = spread(operands[last:], [aval is not None for aval in ct_avals])
            pulled = self.split.pull(residuals, cts, wanted)
            mask.extend(ct is not None for ct in pulled)
            return present(pulled)

        return _jax.without_dead_code(_jax.trace_to_jaxpr(backward, avals, self.forward.jaxpr.debug_info)), mask


def closest(again: ClosedJaxpr, saved: Mapping[Var, Saved]) -> list[Var]:
    """What to keep in the place of what is saved: as few bytes, from which no loop runs again.

    A policy says what is kept at most. Where that is of no use but to run a loop that makes other values which are no
    larger, these are kept: the carries of a loop over layers instead of what each layer added to them. ``again``
    computes what the way back needs from the inputs and what is saved.
    """
    inputs = {*again.jaxpr.constvars, *again.jaxpr.invars} - saved.keys()
    given = [v for v in again.jaxpr.invars if v in saved]
    of_loops = {v for eqn in again.jaxpr.eqns if eqn.primitive is lax.scan_p for v in eqn.outvars}
    if again.effects or not given or not of_loops:
        return given

    def cost(v: Var) -> float:
        if v in inputs or (v in saved and saved[v].elsewhere):
            return 0
        return size(v) if v in saved or v in of_loops else math.inf

    return [v for v in cheapest(again, again.jaxpr.outvars, cost, lambda eqn: 0) if v not in inputs]


@memo
def split_remat(program: Jaxpr, activity: tuple, rules: Any, policy: Callable | None) -> RematHalves:
    return RematHalves(_jax.close(program), activity, rules, policy)


rules = dict.fromkeys(CHECKPOINTS, Remat())

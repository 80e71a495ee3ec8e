"""A program and its way back, as one list of equations."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from funcgrad._jax import ClosedJaxpr, Literal, Var
from funcgrad.budgets.held import Held
from funcgrad.engine.split import Activity, split
from funcgrad.engine.tape import is_differentiable
from funcgrad.programs.evaluation import inline_jits
from funcgrad.programs.flow import with_outputs
from funcgrad.rules import RuleTable


class Joint:
    """The equations of a program and of its way back, when nothing is computed again but what the program itself does.

    ``is_input`` says which of its inputs are inputs of the whole program: their cotangents are ``leaving``, those of
    others are ``staying``. ``shown`` are variables of the program that are outputs besides its own.
    """

    def __init__(
        self,
        program: ClosedJaxpr,
        is_active: Sequence[bool],
        is_input: Sequence[bool],
        rules: RuleTable,
        shown: Sequence[Var] = (),
    ):
        activity = tuple([Activity.VALUE if a else Activity.NONE for a in is_active])
        self.num_outs = len(program.jaxpr.outvars)
        self.halves = split(with_outputs(program, [*program.jaxpr.outvars, *shown]), activity, rules)
        self.forward = inline_jits(self.halves.forward)
        jaxpr = self.forward.jaxpr
        #: The residuals, variables of the forward half or literals, and those of them that are variables.
        self.residuals = self.halves.residuals(jaxpr.invars, jaxpr.outvars)
        self.wanted = [v for v in self.residuals if type(v) is not Literal]
        self.backward, self.leaving, self.staying = self._back(is_input)

    def _back(self, is_input: Sequence[bool]) -> tuple[list[Any], list[Any], list[Any]]:
        """The equations of the way back, of the variables of the forward half; cotangents that leave, and that stay."""
        halves, jaxpr = self.halves, self.halves.forward.jaxpr
        residuals = halves.residuals(jaxpr.invars, jaxpr.outvars)
        ct_avals = tuple([
            aval if i < self.num_outs and active and is_differentiable(halves.out_avals[i]) else None
            for i, (aval, active) in enumerate(zip(halves.ct_avals, halves.out_active, strict=False))
        ])  # fmt: skip
        program, has = halves.backward(tuple([v.aval for v in residuals]), ct_avals)
        program = inline_jits(program)
        fresh = iter(self.wanted)
        env = {v: next(fresh) for v, r in zip(program.jaxpr.invars, residuals, strict=False) if type(r) is not Literal}

        def own(x: Any) -> Any:
            return x if type(x) is Literal else env.get(x, x)

        eqns = [eqn.replace(invars=list(map(own, eqn.invars))) for eqn in program.jaxpr.eqns]
        inputs = [first for first, h in zip(is_input, has, strict=True) if h]
        outvars = list(map(own, program.jaxpr.outvars))
        leaving = [v for v, first in zip(outvars, inputs, strict=True) if first]
        staying = [v for v, first in zip(outvars, inputs, strict=True) if not first]
        return eqns, leaving, staying

    @property
    def eqns(self) -> list[Any]:
        return [*self.forward.jaxpr.eqns, *self.backward]

    @functools.cached_property
    def held(self) -> Held:
        """What is held when the results of either way have a place of their own."""
        return Held(self.eqns, [*self.leaving, *self.forward.jaxpr.outvars[: self.num_outs]], self.staying)

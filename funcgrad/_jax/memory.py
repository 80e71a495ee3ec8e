"""What checkpoint policies say, and the way to other memories and back."""

from __future__ import annotations

from typing import Any

import jax
from jax.ad_checkpoint import Recompute

from funcgrad._jax.names import ensure_enum, mem_kind_to_space


def policy_decision(policy, eqn) -> Any:
    """What a checkpoint policy says of an equation's outputs; None for: compute them again."""
    decision = ensure_enum(policy(eqn.primitive, *[x.aval for x in eqn.invars], **eqn.params))
    return None if decision is Recompute else decision


def transfers(decision):
    """The ways to the memory that a value is offloaded to, and back."""
    there, back = (mem_kind_to_space(kind) for kind in (decision.dst, decision.src))
    return (lambda x: jax.device_put(x, there)), (lambda x: jax.device_put(x, back))

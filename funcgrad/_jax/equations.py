"""Programs made, taken apart and run, and what is said of their equations."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
from jax.ad_checkpoint import Offloadable, Recompute
from jax.debug import DebugEffect, OrderedDebugEffect
from jax.experimental.key_reuse._core import key_reuse_signatures
from jax.interpreters.ad import primitive_jvps as foreign_jvps
from jax.interpreters.ad import zeros_like_aval
from jax.interpreters.partial_eval import (
    custom_partial_eval_rules,
    dce_jaxpr,
    dce_rules,
    partial_eval_jaxpr_custom_rules,
    trace_to_jaxpr_dynamic,
)
from jax.sharding import use_abstract_mesh

from funcgrad._jax.compat import ClosedJaxpr
from funcgrad._jax.names import (
    UNSPECIFIED,
    DynamicJaxprTrace,
    Jaxpr,
    Literal,
    Primitive,
    ReadEffect,
    RefEffect,
    convert_constvars_jaxpr,
    current_jaxpr_eqn_context,
    current_scope,
    current_source,
    ensure_enum,
    foreign_accumulations,
    inline_jaxpr_into_trace,
    jit_p,
    mem_kind_to_space,
    positional_effects,
    remat_allowed_effects,
    set_current_trace,
    trace_ctx,
    wrap_init,
)
from funcgrad._jax.scopes import context_of

_nothing = contextlib.nullcontext()


def trace_to_jaxpr(fun: Callable[..., Sequence[Any]], in_avals: Sequence[Any], info: Any) -> ClosedJaxpr:
    """Stage ``fun`` of flat arguments out to a closed jaxpr. ``info`` is the ``DebugInfo`` it is to carry."""
    wrapped = wrap_init(fun, debug_info=info.with_unknown_names())
    jaxpr, _, consts = trace_to_jaxpr_dynamic(wrapped, list(in_avals))
    return ClosedJaxpr(jaxpr, consts)


def unnamed(program: ClosedJaxpr) -> Any:
    """The debug information of a program, for one with other inputs and outputs."""
    return program.jaxpr.debug_info.with_unknown_names()


def close(jaxpr: Jaxpr) -> ClosedJaxpr:
    """A closed jaxpr of a jaxpr without constants."""
    return ClosedJaxpr(jaxpr, ())


def opened(program: ClosedJaxpr) -> Jaxpr:
    """A jaxpr that takes the constants of a closed one as its first inputs."""
    return convert_constvars_jaxpr(program.jaxpr)


def without_dead_code(program: ClosedJaxpr) -> ClosedJaxpr:
    jaxpr, _ = dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars), instantiate=True)
    live: ClosedJaxpr = program.replace(jaxpr=jaxpr)
    return live


def with_parts(program: ClosedJaxpr, **parts: Any) -> ClosedJaxpr:
    """A program of other inputs, equations, outputs or effects, with the same constants."""
    changed: ClosedJaxpr = program.replace(jaxpr=program.jaxpr.replace(**parts))
    return changed


def is_for_debugging(eqn: Any) -> bool:
    """Whether an equation has effects, and none but to show values."""
    return bool(eqn.effects) and all(isinstance(e, DebugEffect | OrderedDebugEffect) for e in eqn.effects)


def is_ref_effect(effect: Any) -> bool:
    return isinstance(effect, RefEffect)


def effects_to_happen_once(found: Collection[Any]) -> str:
    """What those effects among ``found`` are called that do more than to show values in any order."""
    return ", ".join(sorted(type(e).__name__ for e in found if not isinstance(e, DebugEffect | RefEffect)))


def policy_decision(policy: Callable[..., Any], eqn: Any) -> Any:
    """What a checkpoint policy says of an equation's outputs; None for: compute them again."""
    decision = ensure_enum(policy(eqn.primitive, *[x.aval for x in eqn.invars], **eqn.params))
    return None if decision is Recompute else decision


def transfers(decision: Offloadable) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """The ways to the memory that a value is offloaded to, and back."""
    there, back = (mem_kind_to_space(kind) for kind in (decision.dst, decision.src))
    return (lambda x: jax.device_put(x, there)), (lambda x: jax.device_put(x, back))


def effects_refused_by_remat(found: Collection[Any]) -> Any:
    return remat_allowed_effects.filter_not_in(found)


def ref_uses(program: ClosedJaxpr) -> tuple[set[int], set[int]]:
    """The numbers of a program's inputs that are references it uses, and of those that it writes or adds to."""
    found = [e for e in positional_effects(program) if isinstance(e, RefEffect)]
    return {e.input for e in found}, {e.input for e in found if not isinstance(e, ReadEffect)}


@functools.cache
def is_plain(primitive: Primitive) -> bool:
    """Whether binding a primitive to a trace is no more than handing it to the trace."""
    return type(primitive) is Primitive and not {"bind_with_trace", "is_high"} & vars(primitive).keys()


def write_out(trace: Any, program: ClosedJaxpr, args: Sequence[Any], params: Mapping[str, Any]) -> list[Any]:
    """The outputs of a program whose equations ``trace`` is given, in the place of one jit equation with ``params``."""
    if type(trace) is DynamicJaxprTrace:
        # What ``jit_p`` does there, which takes twice as long to find that out.
        source = current_source()
        tracers = [trace.to_jaxpr_tracer(x, source) for x in args]
        return inline_jaxpr_into_trace(trace, source, program.jaxpr, program.consts, *tracers)
    ins, outs = len(program.in_avals), len(program.out_avals)
    changed = {
        "jaxpr": program,
        "in_shardings": (UNSPECIFIED,) * ins,
        "out_shardings": (UNSPECIFIED,) * outs,
        "in_layouts": (None,) * ins,
        "out_layouts": (None,) * outs,
        "donated_invars": (False,) * ins,
    }
    with set_current_trace(trace):
        return list(jit_p.bind(*args, **{**params, **changed}))


def emit(trace: Any, eqn: Any, values: Sequence[Any], source: Any, context: Any) -> list[Any]:
    """The outputs of an equation staged out for other operands of the same types.

    A primitive's ``bind`` takes several times as long, to find these types again.
    """
    tracers = [trace.to_jaxpr_tracer(x, source) for x in values]
    avals = [v.aval for v in eqn.outvars]
    outs: list[Any] = trace.emit_eqn(tracers, avals, eqn.primitive, eqn.params, eqn.effects, source, context)
    return outs


def zeros(aval: Any) -> Any:
    """Zeros of a cotangent's type, replication and sharding included."""
    trace = trace_ctx.trace
    eqn = equation_of_zeros(aval) if type(trace) is DynamicJaxprTrace else None
    if eqn is None:
        return zeros_here(aval)
    return emit(trace, eqn, [x.val for x in eqn.invars], current_source(), current_jaxpr_eqn_context())[0]


def zeros_here(aval: Any) -> Any:
    mesh = getattr(getattr(aval, "sharding", None), "mesh", None)
    with _nothing if mesh is None else use_abstract_mesh(mesh):
        return zeros_like_aval(aval)


@functools.lru_cache(maxsize=4096)
def equation_of_zeros(aval: Any) -> Any:
    """The equation that makes zeros of a type, None if it takes no equation, or several."""
    eqns = jax.make_jaxpr(lambda: zeros_here(aval))().eqns
    return eqns[0] if len(eqns) == 1 and all(type(x) is Literal for x in eqns[0].invars) else None


def rebind(eqn: Any, values: Sequence[Any], scope: Any, **changed: Any) -> list[Any]:
    """The outputs of an equation for other operands, and other parameters where given."""
    with context_of(eqn, scope):
        outs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params({**eqn.params, **changed}))
    return list(outs) if eqn.primitive.multiple_results else [outs]


def run_here() -> Callable[[Any, Sequence[Any]], list[Any]]:
    """Runs equations under the current trace, with their line and settings, in their scope inside of the current one.

    Their operands are of the types that they have in their program.
    """
    trace, scope = trace_ctx.trace, current_scope()
    if type(trace) is not DynamicJaxprTrace:
        return lambda eqn, values: rebind(eqn, values, scope)

    def run(eqn: Any, values: Sequence[Any]) -> list[Any]:
        if eqn.effects or not is_plain(eqn.primitive):
            return rebind(eqn, values, scope)
        source = eqn.source_info
        return emit(trace, eqn, values, source.replace(name_stack=scope + source.name_stack), eqn.ctx)

    return run


def behave_like(primitive: Primitive, new: Primitive) -> None:
    """Make ``new`` what ``primitive`` is, which carries a program, but for how it is batched and lowered."""
    new.multiple_results = primitive.multiple_results
    new.def_impl(primitive.impl)
    new.def_effectful_abstract_eval(primitive.abstract_eval)
    registries: list[dict[Primitive, Any]] = [
        foreign_jvps, foreign_accumulations, custom_partial_eval_rules, partial_eval_jaxpr_custom_rules, dce_rules,
        key_reuse_signatures,
    ]  # fmt: skip
    for registry in registries:
        registry[new] = registry[primitive]

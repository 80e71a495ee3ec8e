"""Computing again, begun when all that it takes is there.

What is computed again on the way back takes the cotangent only at its end, and XLA's scheduler on the CPU puts it
first, where it holds memory for all of the time between: the barrier of a ``checkpoint`` equation is gone by then. A
conditional is one instruction, which starts when its last operand is made. So ``waiting_p``, which is the primitive of
``jax.checkpoint`` in everything else, is lowered to a conditional on the CPU. Its predicate is always true, and not
known to be: which replica this is XLA does not ask, and no devices have to exchange values for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.interpreters import batching, mlir

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal, Primitive, remat_p
from funcgrad.programs.convolution import with_plain_convolutions
from funcgrad.programs.cut import price
from funcgrad.programs.platform import zeros_of

#: The number of this replica, which is 0 but under ``pmap``.
replica_p = Primitive("replica")
replica_p.def_impl(lambda: jnp.uint32(0))
replica_p.def_abstract_eval(lambda: ShapedArray((), jnp.dtype("uint32")))

#: ``remat_p`` that waits for its operands.
waiting_p = Primitive(remat_p.name)
_jax.behave_like(remat_p, waiting_p)

CHECKPOINTS = (remat_p, waiting_p)


def compute_again(*operands: Any, **params: Any) -> Sequence[Any]:
    """Bind ``remat_p`` with these parameters, waiting for the operands where JAX is to be kept from sharing work."""
    barrier, program = params["prevent_cse"], params["jaxpr"]
    waits = (any(barrier) if isinstance(barrier, tuple) else barrier) and not program.effects and not program.is_high
    outs: Sequence[Any] = (waiting_p if waits else remat_p).bind(*operands, **params)
    return outs


def begun_at_once(program: ClosedJaxpr) -> ClosedJaxpr:
    """``program``, where what is computed again from its inputs, or from what is nothing beside that, does not wait."""
    ready = {*program.jaxpr.constvars, *program.jaxpr.invars}
    eqns = []
    for eqn in program.jaxpr.eqns:
        if all(type(x) is Literal or x in ready for x in eqn.invars):
            if eqn.primitive is waiting_p:
                eqn = eqn.replace(primitive=remat_p)
            elif price(eqn) is not None:
                ready.update(eqn.outvars)
        eqns.append(eqn)
    return _jax.with_parts(program, eqns=eqns)


def batched(axis: Any, operands: Sequence[Any], dims: Sequence[Any], *, jaxpr: Any, **params: Any) -> tuple[Any, Any]:
    program, out_dims = _jax.batch_program(_jax.close(jaxpr), axis, tuple(dims))
    barrier = params["prevent_cse"]
    if isinstance(barrier, tuple):
        params["prevent_cse"] = (False,) * len(program.consts) + barrier
    return waiting_p.bind(*program.consts, *operands, jaxpr=_jax.opened(program), **params), out_dims


def lowered_replica(context: Any) -> list[Any]:
    from jax.extend.mlir.dialects import stablehlo

    return [stablehlo.ReplicaIdOp().result]


def plain(*operands: Any, **params: Any) -> Any:
    return remat_p.bind(*operands, **params)


def conditional(*operands: Any, **params: Any) -> Any:
    true = lax.population_count(replica_p.bind()) <= 32
    zeros = [v.aval for v in params["jaxpr"].outvars]
    params["jaxpr"] = with_plain_convolutions(params["jaxpr"])
    return lax.cond(true, lambda *xs: plain(*xs, **params), lambda *xs: zeros_of(zeros), *operands)


batching.fancy_primitive_batchers[waiting_p] = batched
mlir.register_lowering(replica_p, lowered_replica)
mlir.register_lowering(waiting_p, mlir.lower_fun(plain, multiple_results=True))
mlir.register_lowering(waiting_p, mlir.lower_fun(conditional, multiple_results=True), platform="cpu")

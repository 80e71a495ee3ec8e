"""Cotangents on the way between JAX's derivatives and ours."""

from __future__ import annotations

from typing import Any

from jax.core import ShapedArray
from jax.interpreters.ad import JVPTracer, Zero
from jax.sharding import AxisType, PartitionSpec, use_abstract_mesh

from funcgrad._jax.names import (
    DidntWant,
    DontWant,
    GradAccum,
    GradRef,
    NullAccum,
    ValAccum,
    convert_element_type,
    reshard_p,
)
from funcgrad._jax.types import NO_MESH, ct_sharding, explicit_sharding, is_ref_value
from funcgrad._jax.values import typeof

#: What makes a tracer that contains it one under differentiation in the eyes of ``jax.closure_convert``.
PERTURBED = JVPTracer(None, 0.0, 0.0)


def laid_out(ct: Any, aval: Any) -> Any:
    """A cotangent in the sharding that the cotangent of a value of type ``aval`` has.

    What is reduced over some axes of a mesh has a cotangent that is unreduced over these, a sum that each device has a
    part of, and the other way round.
    """
    return resharded(ct, ct_sharding(aval))


def resharded(x: Any, sharding: Any) -> Any:
    if sharding is None or AxisType.Explicit not in sharding.mesh.axis_types or typeof(x).sharding == sharding:
        return x
    return reshard(x, sharding)


def reshard(x: Any, sharding: Any, concrete_mesh: Any = None) -> Any:
    with use_abstract_mesh(sharding.mesh):
        here, there = typeof(x).sharding, sharding.spec.unreduced
        if here.spec.unreduced - there and there - here.spec.unreduced:
            # XLA's partitioner dies of a sum over some devices that becomes one over others.
            rest = here.spec.unreduced & there
            done = here.update(spec=PartitionSpec(*here.spec.partitions, unreduced=rest, reduced=here.spec.reduced))
            x = reshard_p.bind(x, dst_sharding=done, concrete_mesh=concrete_mesh)
        return reshard_p.bind(x, dst_sharding=sharding, concrete_mesh=concrete_mesh)


def is_reduced(x: Any) -> bool:
    return bool(typeof(x).sharding.spec.reduced)


def is_unreduced(x: Any) -> bool:
    sharding = typeof(x).sharding
    return sharding.mesh is not NO_MESH and bool(sharding.spec.unreduced)


def factor_of(ct: Any, constant: Any) -> Any:
    """A constant as what is unreduced can be multiplied by it: reduced over the same axes."""
    if not is_unreduced(ct):
        return constant
    sharding = typeof(ct).sharding
    return resharded(constant, sharding.update(spec=PartitionSpec(reduced=sharding.spec.unreduced)))


def match(ct: Any, aval: Any) -> Any:
    """A cotangent in the very type ``aval``: dtype, weak or not, and sharding."""
    got = typeof(ct)
    if not isinstance(got, ShapedArray):
        return ct
    if got.dtype != aval.dtype or got.weak_type != aval.weak_type:
        ct = convert_element_type(ct, aval.dtype, aval.weak_type)
    return ct if got.sharding is aval.sharding else resharded(ct, explicit_sharding(aval))


def is_symbolic_zero(x: Any) -> bool:
    return isinstance(x, Zero)


def accumulator(aval: Any, wanted: bool) -> GradAccum:
    """What a hijax primitive's ``vjp_bwd`` adds a cotangent to."""
    return ValAccum(aval) if wanted else NullAccum(aval)


#: What stands for a cotangent that nobody asks for.
UNWANTED = (DontWant, NullAccum)


def deliver(ct: Any, target: Any, replace: bool) -> Any:
    """Give a cotangent to what asked for it; returns what stands in its place."""
    if isinstance(target, UNWANTED):
        return DidntWant()
    if isinstance(target, GradAccum):
        target.accum(ct)
    elif not is_ref_value(target):
        return ct
    elif replace:
        target[...] = ct
    else:
        target.addupdate(ct)
    return GradRef()

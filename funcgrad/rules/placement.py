"""Primitives that say where a value lives: devices, memories, shardings, layouts."""

from __future__ import annotations

from jax import lax

from funcgrad import _jax
from funcgrad.rules.rule import formula, joint


def put_back(cts, avals, *, devices, srcs, copy_semantics):
    """Each cotangent goes back to where its operand came from."""
    if _jax.ArrayCopySemantics.DONATE_INPUT in copy_semantics:
        raise ValueError(
            "donate=True is not allowed during transposition of device_put: the donated array is needed again."
        )
    present = [i for i, ct in enumerate(cts) if ct is not None]
    sources = [_jax.host_of(avals[i]) if srcs[i] is None else srcs[i] for i in present]
    moved = _jax.device_put_p.bind(
        *(cts[i] for i in present),
        devices=tuple(sources),
        srcs=tuple(devices[i] for i in present),
        copy_semantics=(_jax.ArrayCopySemantics.ALWAYS_COPY,) * len(present),
    )
    back = dict(zip(present, moved, strict=True))
    return [back.get(i) for i in range(len(cts))]


def reshard(ct, x_aval, *, concrete_mesh):
    """ct in the sharding of x."""
    with _jax.use_abstract_mesh(x_aval.sharding.mesh):
        return _jax.reshard_p.bind(ct, dst_sharding=x_aval.sharding, concrete_mesh=concrete_mesh)


def constrain(ct, *, sharding, layout, context_mesh, unconstrained_dims):
    return lax.sharding_constraint_p.bind(
        ct, sharding=sharding, layout=layout, context_mesh=context_mesh, unconstrained_dims=unconstrained_dims
    )


rules = {
    _jax.device_put_p: joint(put_back),
    lax.sharding_constraint_p: formula(constrain),
    _jax.layout_constraint_p: formula(lambda ct, *, layout: _jax.layout_constraint_p.bind(ct, layout=layout)),
    _jax.reshard_p: formula(reshard),
}

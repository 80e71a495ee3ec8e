"""Primitives that leave a value's numbers alone: they say where it lives, or tell the compiler something about it."""

from __future__ import annotations

from jax import lax

from funcgrad import _jax
from funcgrad.rules.rule import formula, joint, no_derivative


def put_back(cts, avals, *, devices, srcs, copy_semantics):
    """Each cotangent goes back to where its operand came from."""
    if _jax.ArrayCopySemantics.DONATE_INPUT in copy_semantics:
        raise ValueError(
            "donate=True is not allowed during transposition of device_put: the donated array is needed again."
        )
    present = [i for i, ct in enumerate(cts) if ct is not None]
    sources = [_jax.memory_of(avals[i], devices[i]) if srcs[i] is None else srcs[i] for i in present]
    moved = _jax.device_put_p.bind(
        *(cts[i] for i in present),
        devices=tuple(sources),
        srcs=tuple(devices[i] for i in present),
        copy_semantics=(_jax.ArrayCopySemantics.ALWAYS_COPY,) * len(present),
    )
    back = dict(zip(present, moved, strict=True))
    return [back.get(i) for i in range(len(cts))]


def reshard(ct, x_aval, *, concrete_mesh):
    """ct in the sharding of x's cotangents."""
    return _jax.reshard(ct, x_aval.to_ct_aval().sharding, concrete_mesh)


def representation(ct, x_aval):
    """ct in the dtype of x's cotangents: an extended dtype is another name for the bits of the one it is made of."""
    return lax.convert_element_type(ct, x_aval.to_ct_aval().dtype)


rules = {
    _jax.device_put_p: joint(put_back),
    lax.sharding_constraint_p: formula(lambda ct, **params: lax.sharding_constraint_p.bind(ct, **params)),
    _jax.layout_constraint_p: formula(lambda ct, *, layout: _jax.layout_constraint_p.bind(ct, layout=layout)),
    _jax.reshard_p: formula(reshard),
    # tie(x, y) is y, computed after x.
    _jax.tie_p: formula(None, lambda ct: ct),
    _jax.stage_p: formula(lambda ct: ct),
    _jax.xla_metadata_value_p: formula(lambda ct: ct),
    _jax.to_edtype_p: formula(representation),
    _jax.from_edtype_p: formula(representation),
}
if _jax.dce_sink_p is not None:
    rules[_jax.dce_sink_p] = no_derivative

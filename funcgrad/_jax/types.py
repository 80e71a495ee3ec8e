"""Types: of cotangents, with shardings and memory spaces where these are part of them, and of references."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from jax.ref import AbstractRef
from jax.sharding import AbstractMesh, PartitionSpec
from jax.tree_util import PyTreeDef

from funcgrad._jax.names import (
    MemorySpace,
    addupdate_discharge,
    is_temporary_dtype_exception,
    transform_array,
    transform_swap_array,
    typecompat,
    unmapped_aval,
)
from funcgrad._jax.names import unmentioned as unmentioned_list

#: The mesh of what is on none.
NO_MESH = AbstractMesh((), ())


def ct_type(aval: Any) -> Any:
    """The type of a value's cotangent; for a reference, of the cotangent of its content."""
    return aval.inner_aval.to_ct_aval() if is_ref(aval) else aval.to_ct_aval()


def ct_sharding(aval: Any) -> Any:
    """The sharding that the cotangent of a value of type ``aval`` must be given; None where there is nothing to say."""
    if aval.sharding is None or aval.sharding.mesh is NO_MESH:
        return None
    return explicit_sharding(aval.to_ct_aval())


def whole(x: Any, ndim: int) -> Any:
    """The sharding of an array that every device of the mesh of ``x`` has all of, where shardings are part of types."""
    sharding = explicit_sharding(jax.typeof(x))
    return None if sharding is None else sharding.update(spec=PartitionSpec(*[None] * ndim))


def is_differentiable_dtype(dtype: Any) -> bool:
    return dtype is not None and dtype != jax.dtypes.float0


def has_tangents(aval: Any) -> bool:
    """Whether values of a type have a tangent space of more than one point.

    A hijax type without a dtype may have; one of what is changed in place has not, for JAX either.
    """
    dtype = getattr(aval.to_tangent_aval(), "dtype", None)
    if dtype is None:
        return getattr(aval, "is_high", False) and not getattr(aval, "has_qdd", False)
    return is_differentiable_dtype(dtype)


def cotangent_fits(got: Any, expected: Any) -> bool:
    """Whether a cotangent of type ``got`` may stand where ``expected`` is asked for, as ``jax.vjp`` decides it."""
    return typecompat(got, expected) or is_temporary_dtype_exception(got, expected)


def dtype_fits(got: Any, expected: Any) -> bool:
    """Whether a cotangent may be of the dtype it is, as ``jax.vjp`` decides it."""
    return got.dtype == expected.dtype or is_temporary_dtype_exception(got, expected)


@functools.lru_cache(maxsize=4096)
def stacked_aval(length: Any, aval: Any) -> Any:
    """The type of ``length`` values stacked along a new first axis."""
    return unmapped_aval(length, 0, aval)


def memory_of(aval: Any, target: Any) -> MemorySpace | None:
    """Where a value of that type that was put to ``target`` is; None for wherever values are by default."""
    told = isinstance(target, MemorySpace) or aval.memory_space == MemorySpace.Host
    return aval.memory_space if told else None


def is_unsharded(aval: Any) -> bool:
    mesh = getattr(getattr(aval, "sharding", None), "mesh", None)
    return isinstance(aval, jax.core.ShapedArray) and (mesh is None or mesh.empty)


def explicit_sharding(aval: Any) -> Any:
    """The sharding a value must be given where shardings are part of types, else None."""
    sharding = aval.sharding
    return None if sharding is None or sharding.mesh.empty or sharding.mesh.are_all_axes_auto else sharding


def with_dimensions(sharding: Any, dims: Iterable[int | None]) -> Any:
    """A sharding, or None, with the dimensions ``dims`` of it, None for one that is whole."""
    if sharding is None:
        return None
    spec = sharding.spec
    return sharding.update(spec=spec.update(partitions=tuple(None if d is None else spec.partitions[d] for d in dims)))


def device_varying_spec(aval: Any, mesh: Any, check_vma: bool, names: tuple[Any, ...]) -> Any:
    """The layout of a value of which nothing is known but that it may differ on every device along ``names``."""
    return aval.nospec(mesh, check_vma, names)


def unmentioned(mesh: Any, spec: Any, manual_axes: Any) -> tuple[Any, ...]:
    """The manual axes that a layout does not name: those along which a value is the same on every device."""
    return tuple(unmentioned_list(mesh, spec, manual_axes))


# References, and what they hold.


def is_ref(aval: Any) -> bool:
    return isinstance(aval, AbstractRef)


def is_ref_value(x: Any) -> bool:
    return isinstance(x, jax.Ref)


def never_differentiated(aval: Any) -> bool:
    """Whether a type is that of a reference that derivatives are not to flow through."""
    return getattr(aval, "kind", None) == "no_grad_no_remat"


def indices_of(tree: PyTreeDef, leaves: Sequence[Any]) -> tuple[Any, ...]:
    """The views, one after the other, of an operation on part of a reference."""
    views: tuple[Any, ...] = jax.tree.unflatten(tree, leaves)
    return views


def read_at(x: Any, tree: PyTreeDef, leaves: Sequence[Any]) -> Any:
    """``x[index]``, where ``x`` is what a reference holds."""
    return transform_array(x, indices_of(tree, leaves))


def replace_at(x: Any, y: Any, tree: PyTreeDef, leaves: Sequence[Any]) -> tuple[Any, Any]:
    """``x[index]``, and ``x`` with ``y`` there."""
    there, changed = transform_swap_array(x, indices_of(tree, leaves), y)
    return there, changed


def add_at(x: Any, y: Any, tree: PyTreeDef, leaves: Sequence[Any]) -> Any:
    """``x`` with ``y`` added to ``x[index]``."""
    return addupdate_discharge(x, y, leaves, tree)

"""What a formula rule does for one choice of active operands: what it saves, and what it calls with it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from funcgrad import _jax
from funcgrad._jax import set_current_trace
from funcgrad.engine.tape import Node, Tape
from funcgrad.engine.zero import Zero
from funcgrad.rules.numbers import reshaped, summed
from funcgrad.rules.signature import TAKE, Signature


class Saver:
    """How one residual is had: taken as it is, or computed on the way forward."""

    __slots__ = ("derived", "take")

    def __init__(self, name: str, derived: Mapping[str, Signature], take: Mapping[str, Callable]):
        self.derived = derived.get(name)
        names = self.derived.names if self.derived else (name,)
        self.take = tuple([take[n] for n in names])

    def __call__(self, tape: Tape, primitive, primals, out, params) -> Any:
        values = [take(primals, out) for take in self.take]
        if self.derived is None:
            return values[0]
        check_linear(primitive, values)
        with set_current_trace(tape.parent):
            return self.derived(*values, params=params)


def unbroadcast(ct: Any, aval: Any, out_ct: Any = None) -> Any:
    """Sum a cotangent, made of ``out_ct``, over the dimensions in which its operand was broadcast."""
    shape, ct_shape = aval.shape, getattr(ct, "shape", aval.shape)
    if shape == ct_shape:
        return ct
    if not shape and (out_ct is None or ct_shape == out_ct.shape):
        return summed(ct, range(len(ct_shape)))
    axes = [i for i, (n, m) in enumerate(zip(shape, ct_shape, strict=False)) if n != m]
    if len(shape) != len(ct_shape) or any(shape[i] != 1 for i in axes):
        return ct  # not broadcast from it, for ``Rule.check`` to say so
    return reshaped(summed(ct, axes), aval)


class Plan:
    """A formula rule for one choice of active operands: what to save, and what to call with it.

    ``calls`` has for each active operand its function and which of the saved values that takes, None where the operand
    has no derivative.
    """

    __slots__ = ("active", "arrays", "broadcasts", "calls", "fuse", "names", "parts", "savers")

    def __init__(
        self,
        signatures: Sequence[Signature | None],
        derived: Mapping[str, Signature],
        active: tuple[bool, ...],
        broadcasts: bool,
        fuses: bool,
    ):
        self.active = active
        names: list[str] = []
        self.calls: list[tuple[Signature, list[int]] | None] = []
        for index, is_active in enumerate(active):
            if not is_active:
                continue
            signature = signatures[index] if index < len(signatures) else None
            if signature is not None:
                names.extend(name for name in signature.names if name not in names)
            picks = [] if signature is None else [names.index(name) for name in signature.names]
            self.calls.append(None if signature is None else (signature, picks))
        self.names = tuple(names)
        self.savers = [Saver(name, derived, TAKE) for name in names]
        self.arrays = [i for i, name in enumerate(names) if not name.endswith("_aval")]
        self.broadcasts = broadcasts
        self._prepare(fuses)

    def _prepare(self, fuses: bool) -> None:
        self.fuse: Callable | None = functools.lru_cache(maxsize=512)(self._fuse) if fuses else None
        self.parts: dict[tuple[bool, ...], Plan] = {}

    def pullback(self, node: Node, cts: Sequence[Any]) -> list[Any]:
        if node.wanted is not None:
            return self.part(node.wanted)._pull(node, cts)
        return self._pull(node, cts)

    def _pull(self, node: Node, cts: Sequence[Any]) -> list[Any]:
        (ct,) = cts
        residuals = node.residuals
        if self.fuse is not None:
            arrays = [ct, *[residuals[i] for i in self.arrays]]
            if _jax.runs_eagerly(arrays):
                types = tuple([aval for i, aval in enumerate(residuals) if i not in self.arrays])
                shapes = tuple([aval.shape for aval in node.avals]) if self.broadcasts else ()
                return self.fuse(tuple(node.params.items()), types, shapes)(*arrays)
        return self.apply(ct, residuals, node.params, node.avals)

    def part(self, wanted: tuple[bool, ...]) -> Plan:
        """This plan for those of the active operands whose cotangents are wanted."""
        known = self.parts.get(wanted)
        if known is None:
            known = self.parts[wanted] = copy.copy(self)
            known.calls = [call if want else None for call, want in zip(self.calls, wanted, strict=True)]
            known._prepare(self.fuse is not None)
        return known

    def apply(self, ct: Any, residuals: Sequence[Any], params: Mapping[str, Any], avals: Sequence[Any]) -> list[Any]:
        """A cotangent, or None, for each active operand. Of ``avals``, the operands' types, only shapes are read."""
        pulled: list[Any] = []
        for call, aval in zip(self.calls, avals, strict=True):
            if call is None:
                pulled.append(None)
                continue
            signature, picks = call
            x_ct = signature(ct, *[residuals[i] for i in picks], params=params)
            if self.broadcasts and x_ct is not None:
                x_ct = unbroadcast(x_ct, aval, ct)
            pulled.append(x_ct)
        return pulled

    def _fuse(self, params: tuple, types: tuple, shapes: tuple) -> Callable:
        """The pullback compiled as one, for eager use: its dispatch costs as much as that of each operation in it.

        ``types`` are the residuals that are types, ``shapes`` those of the operands if they were broadcast.
        """

        def pull(ct, *arrays):
            rest, kept = iter(arrays), iter(types)
            residuals = [next(rest) if i in self.arrays else next(kept) for i in range(len(self.names))]
            avals = [jax.ShapeDtypeStruct(shape, ct.dtype) for shape in shapes] if self.broadcasts else self.calls
            return self.apply(ct, residuals, dict(params), avals)

        return jax.jit(pull)


def check_linear(primitive, residuals: Sequence[Any]) -> None:
    if any(type(x) is Zero for x in residuals):
        raise NotImplementedError(
            f"a custom JVP rule must be linear in its tangents, but it applies '{primitive}' to one in a way that is "
            "not. Rewrite the rule so that tangents only enter linear operations."
        )

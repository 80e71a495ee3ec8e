"""``record`` a function at a point, and the ``Pullback`` that comes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import AbstractValue, ShapedArray
from jax.tree_util import PyTreeDef

from funcgrad import _jax
from funcgrad._jax import set_current_trace, take_current_trace
from funcgrad.engine.recording import Leaf, Recording
from funcgrad.engine.tape import Tape, is_differentiable
from funcgrad.engine.zero import Zero

STATIC = (AbstractValue, Leaf, Zero, bool, int, float, complex, str, type(None))


def record(
    fun: Callable[..., Any], primals: Sequence[Any], in_tree: PyTreeDef, has_aux: bool, rules: Any
) -> tuple[Any, Recording, Signature, Any]:
    """Run ``fun`` on the tape.

    ``primals`` are the leaves of the arguments, whose tree is ``in_tree``. Returns the output, the recording and
    signature that make its pullback, and the auxiliary output (None without ``has_aux``).
    """
    with take_current_trace() as parent:
        tape = Tape(parent, rules)
        avals = [_jax.typeof(x) for x in primals]
        tracers = [tape.activate(x) if is_differentiable(aval) else x for x, aval in zip(primals, avals, strict=True)]
        in_slots = [tape.strip(x)[1] for x in tracers]
        with set_current_trace(tape, check_leaks=True):
            out = fun(*jax.tree.unflatten(in_tree, tracers))
            content_slots = [tape.strip(x)[1] if _jax.is_ref(v) else None for x, v in zip(tracers, avals, strict=True)]
            del tracers
            aux_values, aux_tree = [], jax.tree.structure(None)
            if has_aux:
                out, aux = pair(out)
                aux, aux_tree = jax.tree.flatten(aux)
                aux_values = [tape.strip(x)[0] for x in aux]
                del aux
            leaves, out_tree = jax.tree.flatten(out)
            del out
            stripped = [tape.strip(x) for x in leaves]
            values, out_slots = [x for x, _ in stripped], [slot for _, slot in stripped]
            del leaves
            recording = Recording.of(tape, [*out_slots, *content_slots])
            del tape
        out_avals = [_jax.typeof(x) for x in values]
    aux = jax.tree.unflatten(aux_tree, aux_values)
    name = getattr(fun, "__name__", str(fun))
    signature = Signature(in_tree, out_tree, avals, out_avals, in_slots, out_slots, content_slots, name)
    return jax.tree.unflatten(out_tree, values), recording, signature, aux


def pair(out: Any) -> tuple[Any, Any]:
    if not isinstance(out, list | tuple) or len(out) != 2:
        raise TypeError(
            "expected function with aux output to return a two-element tuple, but got type "
            f"{type(out)} with value {out!r}. Return (output, auxiliary), or leave out has_aux."
        )
    return out[0], out[1]


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Signature:
    """The static side of a pullback: trees, types and slots of what goes in and out of the function.

    For an argument leaf that is a reference ``content_slots`` has the slot of what it holds in the end, otherwise None.
    """

    in_tree: PyTreeDef
    out_tree: PyTreeDef
    in_avals: Sequence[Any]
    out_avals: Sequence[Any]
    in_slots: Sequence[int | None]
    out_slots: Sequence[int | None]
    content_slots: Sequence[int | None]
    name: str


@jax.tree_util.register_pytree_node_class
class Pullback:
    """The linear map from a cotangent of the output to a tuple of cotangents of the arguments.

    It is a pytree whose leaves are the residual arrays, so it can be returned from and passed to jitted functions. As
    with ``jax.vjp``'s, ``args_res`` are the residuals that are arguments of the function (a list of trees, with
    ``jax.ad.NotNeeded()`` for each leaf that is not kept) and may be replaced; ``opaque_residuals`` are the others.
    """

    __slots__ = ("__weakref__", "_leaves", "_recording", "args_res", "opaque_residuals", "signature")

    def __init__(self, recording: Recording, signature: Signature, primals: Sequence[Any]):
        leaves, self._recording = recording.flatten(lambda x: not isinstance(x, STATIC))
        self.signature = signature
        given = {id(x): i for i, x in enumerate(primals)}
        #: For each leaf of the recording the argument leaf it is, or where it is among the opaque residuals.
        self._leaves: tuple[tuple[bool, int], ...] = ()
        self.opaque_residuals: list[Any] = []
        used = set()
        for leaf in leaves:
            at = given.get(id(leaf))
            if at is None:
                self._leaves += ((False, len(self.opaque_residuals)),)
                self.opaque_residuals.append(leaf)
            else:
                self._leaves += ((True, at),)
                used.add(at)
        kept = [x if i in used else _jax.NotNeeded() for i, x in enumerate(primals)]
        self.args_res = list(jax.tree.unflatten(signature.in_tree, kept))

    def recording(self) -> Recording:
        """The recording with its residuals."""
        args = jax.tree.leaves(self.args_res, is_leaf=lambda x: isinstance(x, _jax.NotNeeded))
        return self._recording.unflatten(
            [args[i] if is_arg else self.opaque_residuals[i] for is_arg, i in self._leaves]
        )

    def __call__(self, ct: Any, *rest: Any) -> tuple[Any, ...]:
        return self._pull(ct, rest, None)

    def with_refs(self, *targets: Any) -> Callable[[Any], tuple[Any, ...]]:
        """This pullback, adding cotangents to references instead of returning them.

        ``targets`` has the arguments' structure. At each leaf is a reference to add to, ``jax.ad.GradValue()`` for a
        cotangent to be returned, or ``jax.ad.DontWant()``. Where the argument is a reference itself, the one given for
        it has the cotangent of what the argument holds in the end, and gets that of what it held at first.
        """
        leaves, tree = jax.tree.flatten(targets)
        if tree != self.signature.in_tree:
            raise ValueError(f"with_refs takes the arguments' structure {self.signature.in_tree}, but got {tree}")
        return lambda ct, *rest: self._pull(ct, rest, leaves)

    def _pull(self, ct: Any, rest: tuple[Any, ...], targets: Sequence[Any] | None) -> tuple[Any, ...]:
        sig = self.signature
        if rest:
            raise TypeError(
                f"The function returned by vjp applied to {sig.name} was called with {len(rest) + 1} arguments, but it "
                "must be called with a single argument, the cotangent of the single value that the function returns. "
                "If that value is a tuple, pass a tuple: pullback((a, b)), not pullback(a, b)."
            )
        if targets is None:
            return tuple(jax.tree.unflatten(sig.in_tree, pull_back(self.recording(), sig, ct)))
        pairs = list(zip(sig.content_slots, targets, strict=True))
        contents = [(slot, target[...]) for slot, target in pairs if slot is not None and _jax.is_ref_value(target)]
        asked = zip(sig.in_slots, targets, strict=True)
        unwanted = [slot for slot, target in asked if slot is not None and isinstance(target, _jax.UNWANTED)]
        cts = pull_back(self.recording(), sig, ct, contents, unwanted)
        cts = [_jax.deliver(x_ct, target, slot is not None) for x_ct, (slot, target) in zip(cts, pairs, strict=True)]
        return tuple(jax.tree.unflatten(sig.in_tree, cts))

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return (self.args_res, self.opaque_residuals), (self._recording, self._leaves, self.signature)

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], children: Sequence[Any]) -> Pullback:
        pullback = object.__new__(cls)
        pullback._recording, pullback._leaves, pullback.signature = static
        pullback.args_res, pullback.opaque_residuals = children
        return pullback

    def __repr__(self) -> str:
        return f"<pullback of {self.signature.name}: {len(self._recording.nodes)} operations>"


def pull_back(
    recording: Recording,
    sig: Signature,
    ct: Any,
    contents: Sequence[tuple[int, Any]] = (),
    unwanted: Collection[int] = (),
) -> list[Any]:
    """Cotangents of the argument leaves, for the output cotangent ``ct``; None for those in the slots ``unwanted``.

    ``contents`` pairs slots with cotangents of what references among the arguments hold in the end.
    """
    if unwanted:
        recording, _ = recording.towards(slot for slot in sig.in_slots if slot is not None and slot not in unwanted)
    cts = recording.pull([*zip(sig.out_slots, check_cotangent(ct, sig), strict=True), *contents])
    pulled: list[Any] = []
    for slot, aval in zip(sig.in_slots, sig.in_avals, strict=True):
        if slot in unwanted:
            pulled.append(None)
            continue
        x_ct = None if slot is None else cts[slot]
        pulled.append(_jax.zeros(_jax.ct_type(aval)) if x_ct is None else x_ct)
    return pulled


def check_cotangent(ct: Any, sig: Signature) -> list[Any]:
    """The leaves of ``ct``, which must have the structure, shapes and dtypes of the output."""
    leaves, tree = jax.tree.flatten(ct, is_leaf=_jax.is_symbolic_zero)
    if tree != sig.out_tree:
        raise ValueError(
            f"unexpected tree structure.\n\nThe argument to a VJP function must match the pytree structure of what "
            f"{sig.name} returned:\n  expected {sig.out_tree}\n  but got  {tree}"
        )
    checked: list[Any] = []
    for leaf, aval, slot in zip(leaves, sig.out_avals, sig.out_slots, strict=True):
        if _jax.is_symbolic_zero(leaf):
            checked.append(None)
            continue
        expected, got = aval.to_ct_aval(), _jax.typeof(leaf)
        if not _jax.cotangent_fits(got, expected):
            raise ValueError(
                "unexpected JAX type (e.g. shape/dtype) for argument to VJP function: got "
                f"{got.str_short()}, but expected {expected.str_short()} because the corresponding output of "
                f"{sig.name} had JAX type {aval.str_short()}"
            )
        is_number = isinstance(got, ShapedArray) and not isinstance(leaf, jax.Array)
        checked.append(jnp.asarray(leaf) if is_number and slot is not None else leaf)
    return checked

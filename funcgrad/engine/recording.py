"""A finished tape as plain data: it can be run back, flattened, measured and printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from funcgrad import _jax
from funcgrad.engine.tape import Node, Tape


class Leaf(int):
    """The place of a residual array in a flattened recording."""


@dataclasses.dataclass(slots=True, eq=False)
class Recording:
    """The nodes of a tape that its outputs depend on, in order of recording.

    ``slots`` is how many cotangents the way back has to keep apart and ``scope`` the depth of the name stack at which
    the tape was begun, None for a program that is written out, in scopes that are marked as backward already.
    """

    nodes: Sequence[Node]
    slots: int
    scope: int | None

    @staticmethod
    def of(tape: Tape, out_slots: Iterable[int | None]) -> Recording:
        return Recording(reachable(tape.nodes, out_slots), tape.slots, tape.scope)

    def pull(self, seeds: Iterable[tuple[int | None, Any]]) -> list[Any]:
        """Pull cotangents back over the nodes, last recorded first.

        ``seeds`` pairs slots with the cotangents to start from. Returns, by slot, the cotangents that no node consumed,
        those of the inputs among them. None stands for zero.
        """
        cts: list[Any] = [None] * self.slots
        given = [(slot, ct) for slot, ct in seeds if slot is not None and ct is not None]
        for at, ct in given:
            cts[at] = accumulate(cts[at], ct)
        scopes = _jax.BackwardScopes(self.scope)
        for node in reversed(self.nodes):
            outs, nonzero = [], False
            for slot in node.outs:
                outs.append(None if slot is None else cts[slot])
                if slot is not None:
                    nonzero = nonzero or cts[slot] is not None
                    cts[slot] = None
            if not nonzero and not (given and node.rule.of_zeros):
                continue
            with scopes.of(node.source, node.settings):
                pulled = node.rule.pullback(node, outs)
                if node.rule.checked:
                    pulled = node.rule.check(node, pulled)
                for slot, aval, ct in zip(node.parents, node.avals, pulled, strict=True):
                    if ct is not None and getattr(aval, "sharding", None) is not None:
                        ct = ct if aval.sharding.mesh is _jax.NO_MESH else _jax.laid_out(ct, aval)
                    cts[slot] = ct if cts[slot] is None else accumulate(cts[slot], ct)
        return cts

    def towards(self, wanted: Iterable[int]) -> tuple[Recording, set[int]]:
        """What is to be done for the cotangents in the slots ``wanted`` of inputs, and all slots it goes through."""
        needed, nodes = set(wanted), []
        for node in self.nodes:
            asked = tuple([slot in needed for slot in node.parents])
            if any(asked):
                nodes.append(node if all(asked) else node.replace(wanted=asked))
                needed.update(slot for slot in node.outs if slot is not None)
        return Recording(nodes, self.slots, self.scope), needed

    def flatten(self, is_leaf: Callable[[Any], bool]) -> tuple[list[Any], Recording]:
        """The residuals that are leaves, each once, and the recording with their places in them."""
        leaves: list[Any] = []
        places: dict[int, Leaf] = {}

        def place(x: Any) -> Any:
            if not is_leaf(x):
                return x
            if id(x) not in places:
                places[id(x)] = Leaf(len(leaves))
                leaves.append(x)
            return places[id(x)]

        return leaves, self.map_residuals(place)

    def unflatten(self, leaves: Sequence[Any]) -> Recording:
        """The inverse of ``flatten``."""
        return self.map_residuals(lambda x: leaves[x] if type(x) is Leaf else x)

    def map_residuals(self, f: Callable[[Any], Any]) -> Recording:
        nodes = [node.replace(residuals=tuple(map(f, node.residuals))) for node in self.nodes]
        return Recording(nodes, self.slots, self.scope)


def accumulate(a: Any, b: Any) -> Any:
    """The sum of two cotangents of one value, either of which may be None, the symbolic zero."""
    return b if a is None else a if b is None else _jax.add_cotangents(a, b)


def reachable(nodes: Sequence[Node], slots: Iterable[int | None]) -> list[Node]:
    """The nodes that the outputs in ``slots`` depend on."""
    wanted = {slot for slot in slots if slot is not None}
    kept = []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.outs):
            wanted.update(node.parents)
            kept.append(node)
    kept.reverse()
    return kept

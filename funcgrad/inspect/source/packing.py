"""What functions are passed together: containers, such as a layer's parameters, instead of the leaves that are taken
from them, and residuals, which a function returns for its backward half alone."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from funcgrad._jax import Var
from funcgrad.inspect.printing import WIDTH, lines_of
from funcgrad.inspect.source.expressions import assign, packed, static_text
from funcgrad.inspect.source.program import Equation, Program, calls_of

#: Fewer residuals than this are handed over one by one.
FEWEST = 3


class Place(NamedTuple):
    """Where a leaf is: in which argument, and by which keys."""

    argument: str
    path: tuple[Any, ...]


class Group(NamedTuple):
    """Operands, or results, of a function that are passed as one value: a container, or a tuple.

    ``members`` are their numbers, ``paths`` the keys that lead to each in the container; none for a tuple. ``places``
    are, by the identity of the call, the containers', which is another one in every call; of results in a tuple, it has
    the calls whose tuple is not taken apart.
    """

    name: str
    members: list[int]
    paths: list[tuple[Any, ...]]
    places: Mapping[int, Any]


class Packing(NamedTuple):
    """How a function's operands and results are passed. What is in no group is passed by itself."""

    inputs: list[Group]
    outputs: list[Group]

    def operands(self, count: int) -> list[int | Group]:
        return slots(self.inputs, count)

    def results(self, count: int) -> list[int | Group]:
        """Tuples come last."""
        return sorted(slots(self.outputs, count), key=lambda slot: isinstance(slot, Group) and not slot.paths)


def slots(groups: Sequence[Group], count: int) -> list[int | Group]:
    """What ``count`` values are passed as, in order: numbers, and groups where the first of their members would be."""
    known = {k: group for group in groups for k in group.members}
    return [known.get(i, i) for i in range(count) if i not in known or i == min(known[i].members)]


def packings_of(
    root: Program, leaves: Mapping[Var, Place], gradients: Mapping[Var, Place], arguments: Mapping[str, Any]
) -> dict[Program, Packing]:
    """How the functions of a program pass containers, where ``root`` calls them, and residuals.

    ``leaves`` are the arguments' leaves, ``gradients`` the values that are nothing but the gradient of one.
    """
    sites_of = calls_of(root)
    found = {program: Packing([], []) for program in sites_of}
    for program, sites in sites_of.items():
        calls = [eqn for _, eqn in sites]
        if len(calls) > 1 and all(around is root for around, _ in sites):
            inputs = groups_of([[leaves.get(x) if type(x) is Var else None for x in e.inputs] for e in calls], calls)
            outputs = groups_of([[gradients.get(v) for v in e.outputs] for e in calls], calls)
            found[program].inputs.extend(group for group in inputs if len(group.members) > 1)
            found[program].outputs.extend(group for group in outputs if covers(group, arguments))
    pack_residuals(sites_of, found)
    return found


def groups_of(rows: Sequence[Sequence[Place | None]], calls: Sequence[Equation]) -> list[Group]:
    """Groups of columns that, in each row, are leaves of one container; ``rows`` has a row for each call."""
    groups: dict[Any, Group] = {}
    for number, column in enumerate(zip(*rows, strict=True)):
        places = [place for place in column if place is not None]
        if len(places) < len(column) or len({place.argument for place in places}) > 1:
            continue
        common = 0
        while all(len(p.path) > common + 1 for p in places) and len({str(p.path[-1 - common]) for p in places}) == 1:
            common += 1
        containers = [Place(p.argument, p.path[: len(p.path) - common]) for p in places]
        path = places[0].path[len(places[0].path) - common :]
        texts = [accessed(p.argument, p.path) for p in containers]
        if not common or None in texts or accessed("x", path) is None or len(set(texts)) < 2:
            continue
        at = {id(call): place for call, place in zip(calls, containers, strict=True)}
        group = groups.setdefault(tuple(texts), Group(container_name(containers[0]), [], [], at))
        group.members.append(number)
        group.paths.append(path)
    return list(groups.values())


def covers(group: Group, arguments: Mapping[str, Any]) -> bool:
    """Whether a group has all leaves of its containers, and these are such that can be written down."""
    wanted = {str(path) for path in group.paths}
    for place in group.places.values():
        tree = arguments[place.argument]
        for key in place.path:
            tree = getattr(tree, key.name) if hasattr(key, "name") else tree[key_of(key)]
        found = {str(tuple(path)) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]}
        if found != wanted or not is_plain(tree):
            return False
    return True


def key_of(key: Any) -> Any:
    """What is in a key of a path: a dict's key, the number of an item, or an attribute's name."""
    return getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))


def is_plain(tree: Any) -> bool:
    if type(tree) is dict:
        return all(map(is_plain, tree.values()))
    return jax.tree_util.all_leaves([tree])


def container_name(place: Place) -> str:
    words = [key.key for key in place.path if isinstance(getattr(key, "key", None), str)]
    word = words[-1] if words else place.argument
    return word[:-1] if word.endswith("s") and len(word) > 3 and word != "params" else word


def numbers_in(place: Place) -> str:
    return "".join(f"_{key.idx}" for key in place.path if hasattr(key, "idx"))


def accessed(argument: str, path: Sequence[Any]) -> str | None:
    """The expression that leads to a leaf, None if there is none."""
    text = argument
    for key in path:
        match key:
            case jax.tree_util.DictKey(key=inner) if isinstance(inner, str | int):
                text += f"[{static_text(inner)}]"
            case jax.tree_util.SequenceKey(idx=i):
                text += f"[{i}]"
            case jax.tree_util.GetAttrKey(name=name):
                text += f".{name}"
            case _:
                return None
    return text


def unpacking(pairs: Sequence[tuple[str, ast.expr]]) -> list[ast.stmt]:
    """Statements that give names to expressions, in one where they are few and fit a line."""
    together = assign([ast.Name(x) for x, _ in pairs], packed([value for _, value in pairs]))
    is_one_line = len(pairs) <= 4 and len(lines_of(together, WIDTH - 4)) == 1
    return [together] if is_one_line else [assign([ast.Name(x)], value) for x, value in pairs]


# Residuals.


def pack_residuals(calls: Mapping[Program, Sequence[tuple[Program, Equation]]], found: dict[Program, Packing]) -> None:
    """Pass residuals as one value from the functions that hand them over to those that take them."""
    done: set[Program] = set()
    for function, sites in calls.items():
        pairs = [handed_over(program, eqn) for program, eqn in sites]
        for taker in {use.taker: None for pair in pairs for use in pair.values()}:
            giving = [pair for pair in pairs if any(use.taker is taker for use in pair.values())]
            outputs = [i for i, use in giving[0].items() if use.taker is taker]
            outputs = [i for i in outputs if all(i in pair and pair[i][:2] == giving[0][i][:2] for pair in giving)]
            inputs = [giving[0][i].number for i in outputs]
            # Every call of the taker must get all of them from one call of the function.
            one_call = all(len({id(pair[i].call) for i in outputs}) == 1 for pair in giving)
            complete = one_call and len(calls[taker]) == len(giving) and len(set(inputs)) == len(inputs)
            if len(outputs) >= FEWEST and complete and taker is not function and done.isdisjoint((taker, function)):
                whole = {id(eqn): None for (_, eqn), pair in zip(sites, pairs, strict=True) if pair in giving}
                found[function].outputs.append(Group("residuals", outputs, [], whole))
                found[taker].inputs.append(Group("residuals", inputs, [], {}))
                done |= {taker, function}


class Use(NamedTuple):
    """What uses a value: a function, the number of its operand, and the call."""

    taker: Program
    number: int
    call: Equation


def handed_over(program: Program, eqn: Equation) -> dict[int, Use]:
    """The outputs of an equation, by number, that are used in a single call and nowhere else."""
    users = program.users()
    found = {}
    for i, v in enumerate(eqn.outputs):
        match users.get(v):
            case [Equation(name="call") as call]:
                found[i] = Use(call.params["program"], call.inputs.index(v), call)
    return found

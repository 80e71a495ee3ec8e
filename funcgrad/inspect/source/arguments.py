"""What ``value_and_grad`` takes and gives: the leaves of the arguments, and the trees of the results."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from funcgrad._jax import Var
from funcgrad.inspect.source.expressions import call, display, expression
from funcgrad.inspect.source.names import RESERVED, identifier
from funcgrad.inspect.source.packing import Place, accessed
from funcgrad.inspect.source.program import Program
from funcgrad.inspect.source.staging import Staged


class Leaf(NamedTuple):
    """An array among the arguments: the variable it is, where it is, and its number in its argument."""

    var: Var
    place: Place
    number: int

    def expression(self) -> ast.expr:
        argument = self.place.argument
        return expression(accessed(*self.place) or f"jax.tree.leaves({argument})[{self.number}]")


class Arguments:
    """The arguments by name, their leaves, and which of those the gradient is taken by."""

    def __init__(
        self, fun: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], argnums: Any, staged: Staged, root: Program
    ):
        self.args, self.argnums, self.staged, self.outputs = args, argnums, staged, root.outputs
        self.positional, self.keywords = parameters(fun, args, kwargs), list(kwargs)
        self.by_name = {**dict(zip(self.positional, args, strict=True)), **kwargs}
        static, inputs = iter(staged.static), iter(root.inputs)
        self.leaves: list[Leaf] = []
        for name in (*self.positional, *sorted(kwargs)):
            for number, (path, _) in enumerate(jax.tree_util.tree_flatten_with_path(self.by_name[name])[0]):
                if not next(static):
                    self.leaves.append(Leaf(next(inputs), Place(name, tuple(path)), number))
        self.wanted = [i % len(args) for i in ([argnums] if isinstance(argnums, int) else argnums)]
        self.count = sum(len(jax.tree.leaves(args[i])) for i in self.wanted)

    def static_names(self) -> list[str]:
        """The arguments that are no arrays."""
        arrays = {leaf.place.argument for leaf in self.leaves}
        return [name for name, x in self.by_name.items() if name not in arrays and jax.tree.leaves(x)]

    def gradients(self) -> list[tuple[Any, Leaf]]:
        """The program's outputs that are gradients, each with the leaf it is the gradient of."""
        wanted = [leaf for i in self.wanted for leaf in self.leaves if leaf.place.argument == self.positional[i]]
        return list(zip(self.outputs[len(self.outputs) - self.count :], wanted, strict=True))

    def result(self, values: Sequence[ast.expr], has_aux: bool) -> ast.expr:
        """The value and the gradient."""
        first, gradients = values[: len(values) - self.count], iter(values[len(values) - self.count :])
        trees = []
        for i in self.wanted:
            structure: Any = jax.tree.structure(self.args[i])
            own = [next(gradients) for _ in range(structure.num_leaves)]
            trees.append(tree_of(structure, own, f"jax.tree.structure({self.positional[i]})"))
        gradient = trees[0] if isinstance(self.argnums, int) else ast.Tuple(trees)
        if not has_aux:
            return ast.Tuple([first[0], gradient])
        value_tree = self.staged.out_tree.children()[0]
        return ast.Tuple([ast.Tuple([first[0], tree_of(value_tree.children()[1], first[1:], None)]), gradient])


def parameters(fun: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """The names of the positional arguments."""
    try:
        signature = inspect.signature(fun)
        bound = list(signature.bind(*args, **kwargs).signature.parameters.values())
    except (TypeError, ValueError):
        bound = []
    positional = [p.name for p in bound if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][: len(args)]
    rest = next((p.name for p in bound if p.kind is p.VAR_POSITIONAL), "x")
    names = [*positional, *(f"{rest}_{i}" for i in range(len(args) - len(positional)))]
    return [f"{name}_" if name in RESERVED else name for name in names]


def tree_of(structure: Any, values: Sequence[ast.expr], structure_text: str | None) -> ast.expr:
    """A tree as a display of dicts, lists and tuples; of other classes as ``structure_text`` says, or as tuples."""
    try:
        return display(jax.tree.unflatten(structure, values))
    except TypeError:
        if structure_text is None:
            return ast.Tuple(list(values))
        return call("jax.tree.unflatten", [expression(structure_text), ast.List(list(values))])


def leaf_names(leaves: Sequence[Place]) -> list[str]:
    """Names for leaves: the last key of each, with as much of what leads there as makes it the only one."""
    choices = [candidates(*place) for place in leaves]
    level = [0] * len(leaves)
    while True:
        names = [c[min(i, len(c) - 1)] for c, i in zip(choices, level, strict=True)]
        counts = Counter(names)
        clashing = [k for k, name in enumerate(names) if counts[name] > 1 and level[k] < len(choices[k]) - 1]
        if not clashing:
            return names
        for k in clashing:
            level[k] += 1


def candidates(argument: str, path: Sequence[Any]) -> list[str]:
    keys = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", "")))) for k in path]
    words = [k for k in keys if not k.isdigit()]
    numbers = [k for k in keys if k.isdigit()]
    if not words:
        return [identifier("_".join([argument, *numbers]))]
    parts = [words[-1:], [words[-1], *numbers], words[-2:], [*words[-2:], *numbers], keys, [argument, *keys]]
    return list(dict.fromkeys(identifier("_".join(p)) for p in parts))

"""``backward_source``: a function's value and gradient as the source of a Python function."""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from funcgrad._jax import Var
from funcgrad.inspect.printing import lines_of
from funcgrad.inspect.source import algebra, functions, indexing, shapes, structured
from funcgrad.inspect.source.blocks import Block, Module
from funcgrad.inspect.source.expressions import assign, call, constant_text, display, expression, function, static
from funcgrad.inspect.source.lifting import Lifter, Staged, stage
from funcgrad.inspect.source.names import RESERVED, Namespace, identifier
from funcgrad.inspect.source.outline import outline
from funcgrad.inspect.source.packing import Place, accessed, key_of, packings_of, unpacking
from funcgrad.inspect.source.program import Program, callers_first, calls_of
from funcgrad.inspect.source.simplify import simplify, without_dead_code
from funcgrad.rules import RuleTable, table_of
from funcgrad.transforms import P

#: The rewrites of each operation: of indexing before those of shapes, and of shapes before those of numbers.
FAMILIES = (indexing.REWRITES, shapes.REWRITES, algebra.REWRITES)
REWRITES = {name: sum((x.get(name, ()) for x in FAMILIES), ()) for family in FAMILIES for name in family}
#: What a source imports, where it uses it.
IMPORTS = {
    "base64": "import base64",
    "zlib": "import zlib",
    "jax": "import jax",
    "jnp": "import jax.numpy as jnp",
    "np": "import numpy as np",
    "lax": "from jax import lax",
    "primitives": "from jax.extend.core import primitives",
}


def backward_source(
    fun: Callable[P, Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, *, rules: RuleTable | None = None
) -> Callable[P, str]:
    """A function that returns the forward and backward pass of the scalar function ``fun`` as Python source.

    Args:
      fun: as for ``funcgrad.value_and_grad``, and ``argnums``, ``has_aux`` and ``rules`` too.

    Returns:
      A function of ``fun``'s arguments. The source it returns defines ``value_and_grad``, a function of the same
      arguments that returns what ``funcgrad.value_and_grad(fun, argnums, has_aux)`` does. It needs JAX alone, and is
      good for arguments of the structure, shapes and dtypes of those given. Arguments that are not arrays are held
      fixed.

    Raises:
      TypeError: as ``funcgrad.value_and_grad`` does.
      ValueError: ``fun`` uses an array of more than a mebibyte that is not among its arguments.
      NotImplementedError: ``fun`` uses what has no source, such as a call back into Python.

    >>> import jax.numpy as jnp
    >>> def loss(w, x):
    ...     return jnp.sum(jnp.tanh(w * x))
    >>> print(backward_source(loss)(0.5, jnp.ones(3)))
    import jax
    import jax.numpy as jnp
    <BLANKLINE>
    <BLANKLINE>
    @jax.jit
    def value_and_grad(w, x):
    ...
    """
    rules = table_of(rules)

    def source(*args: Any, **kwargs: Any) -> str:
        staged = stage(fun, args, kwargs, rules, argnums, has_aux)
        root, constants = tidied(staged.jaxpr)
        arguments = Arguments(fun, args, kwargs, argnums, staged, root)
        return written(root, constants, arguments, getattr(fun, "__name__", "<function>"), has_aux)

    return source


def tidied(jaxpr: Any) -> tuple[Program, dict[Var, Any]]:
    """A jaxpr as the program that is written down, and the constants that are used in it."""
    lifter = Lifter(jaxpr)
    root = lifter.lift(jaxpr)
    without_dead_code(root)
    simplify(root, REWRITES)
    outline(root)
    used = {x for program in callers_first(root) for x in program.uses()}
    return root, {v: x for v, x in lifter.constants.values() if v in used}


def written(root: Program, constants: Mapping[Var, Any], arguments: Arguments, title: str, has_aux: bool) -> str:
    called = calls_of(root)
    programs = [p for p in callers_first(root)[::-1] if p in called]
    uses = root.uses()
    gradients = {v: leaf.place for v, leaf in arguments.gradients() if type(v) is Var and uses[v] == 1}
    places = {leaf.var: leaf.place for leaf in arguments.leaves}
    packings = packings_of(root, places, gradients, arguments.by_name)
    module = Module(programs, packings, list(constants), {**functions.WRITERS, **structured.WRITERS})
    main = value_and_grad(module, root, arguments, title, has_aux)
    shown = [assign([ast.Name(module.known[v])], expression(constant_text(x))) for v, x in constants.items()]
    body = [*shown, *module.definitions, main]
    used = {node.id for statement in body for node in ast.walk(statement) if isinstance(node, ast.Name)}
    parts = [
        [line for module_name, line in IMPORTS.items() if module_name in used],
        [line for statement in shown for line in lines_of(statement)],
        *[lines_of(statement) for statement in (*module.definitions, main)],
    ]
    return "\n\n\n".join("\n".join(part) for part in parts if part) + "\n"


def value_and_grad(module: Module, root: Program, arguments: Arguments, title: str, has_aux: bool) -> ast.stmt:
    """The function that a source defines."""
    block = Block(module, root, Namespace([*module.names.taken, *arguments.positional, *arguments.keywords]), {})
    block.body.append(ast.Expr(ast.Constant(docstring(title, [arguments.positional[i] for i in arguments.wanted]))))
    unpack(block, arguments)
    name_results(block, arguments)
    body = block.statements()
    result = ast.Return(arguments.result(block.all_typed(root.outputs), has_aux))
    main = function("value_and_grad", arguments.positional, [*body, result], arguments.keywords)
    fixed = arguments.static_names()
    decorator = expression("jax.jit(static_argnames=names)" if fixed else "jax.jit", names=static(tuple(fixed)))
    main.decorator_list.append(decorator)
    return main


def docstring(title: str, names: Sequence[str]) -> str:
    of = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    plain = re.sub(r"[^\w<>.]", "", title)
    return f"The value of {plain} and its gradient with respect to {of}."


def unpack(block: Block, arguments: Arguments) -> None:
    """Take the leaves out of the arguments."""
    uses = Counter(block.uses)
    for eqn in block.program.equations:
        for group in block.module.packings[eqn.params["program"]].inputs if eqn.name == "call" else ():
            uses.subtract(eqn.inputs[i] for i in group.members)
    groups: dict[Any, list[tuple[str, ast.expr]]] = {}
    short = leaf_names([leaf.place for leaf in arguments.leaves])
    for leaf, hint in zip(arguments.leaves, short, strict=True):
        argument, path = leaf.place
        if not path:
            block.values[leaf.var] = ast.Name(argument)
            block.module.known[leaf.var] = argument
            block.module.given.add(leaf.var)
        elif not uses[leaf.var]:
            block.module.known[leaf.var] = hint
        else:
            block.hints[leaf.var] = hint
            pair = block.bind(leaf.var, None), leaf.expression()
            groups.setdefault((argument, str(path[:-1])), []).append(pair)
    for pairs in groups.values():
        block.body += unpacking(pairs)


def name_results(block: Block, arguments: Arguments) -> None:
    """Hints for the names of the value and of the gradients."""
    backward = {v for eqn in block.program.equations if eqn.backward for v in eqn.outputs}
    for var, leaf in arguments.gradients():
        if type(var) is Var and var in backward:
            block.hints.setdefault(var, f"ct_{block.module.known[leaf.var]}")
    value = block.program.outputs[0]
    if type(value) is Var:
        block.hints.setdefault(value, "value")


# What it takes and gives.


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
        for argument in (*self.positional, *sorted(kwargs)):
            for number, (path, _) in enumerate(jax.tree_util.tree_flatten_with_path(self.by_name[argument])[0]):
                if not next(static):
                    self.leaves.append(Leaf(next(inputs), Place(argument, tuple(path)), number))
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
    keys = [str(key_of(k)) for k in path]
    words = [k for k in keys if not k.isdigit()]
    numbers = [k for k in keys if k.isdigit()]
    if not words:
        return [identifier("_".join([argument, *numbers]))]
    parts = [words[-1:], [words[-1], *numbers], words[-2:], [*words[-2:], *numbers], keys, [argument, *keys]]
    return list(dict.fromkeys(identifier("_".join(p)) for p in parts))

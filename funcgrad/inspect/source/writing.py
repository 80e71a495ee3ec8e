"""``backward_source``: a function's value and gradient as the source of a Python function."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from funcgrad._jax import Var
from funcgrad.inspect.source import algebra, functions, indexing, loops
from funcgrad.inspect.source.blocks import Block, Module
from funcgrad.inspect.source.bundles import bundles_of
from funcgrad.inspect.source.containers import Packing, Place, accessed, packings_of, unpacking
from funcgrad.inspect.source.dead_code import without_dead_code
from funcgrad.inspect.source.lifting import Lifter
from funcgrad.inspect.source.names import RESERVED, Namespace, identifier
from funcgrad.inspect.source.outline import outline
from funcgrad.inspect.source.program import Program, callers_first
from funcgrad.inspect.source.simplify import simplify
from funcgrad.inspect.source.staging import Staged, stage
from funcgrad.inspect.source.static import constant_text, static_text
from funcgrad.inspect.source.text import WIDTH, Text, statement
from funcgrad.rules import RuleTable
from funcgrad.rules import default as default_rules

#: The rewrites of each operation, those of indexing before those of algebra.
REWRITES = {
    name: (*indexing.REWRITES.get(name, ()), *algebra.REWRITES.get(name, ()))
    for name in (*algebra.REWRITES, *indexing.REWRITES)
}
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
    fun: Callable, argnums: int | Sequence[int] = 0, has_aux: bool = False, *, rules: RuleTable | None = None
) -> Callable[..., str]:
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
    rules = default_rules if rules is None else rules

    def source(*args: Any, **kwargs: Any) -> str:
        return Source(fun, args, kwargs, stage(fun, args, kwargs, rules, argnums, has_aux), argnums, has_aux).text()

    return source


class Source:
    """The making of one source."""

    def __init__(self, fun: Callable, args: tuple, kwargs: dict, staged: Staged, argnums: Any, has_aux: bool):
        self.fun, self.args, self.kwargs, self.staged = fun, args, kwargs, staged
        self.argnums, self.has_aux = argnums, has_aux
        lifter = Lifter(staged.jaxpr)
        self.root = lifter.lift(staged.jaxpr)
        without_dead_code(self.root)
        simplify(self.root, REWRITES)
        outline(self.root)
        used = {x for program in callers_first(self.root) for x in program.uses()}
        self.constants = {v: x for v, x in lifter.constants.items() if v in used}

    def text(self) -> str:
        programs = [p for p in callers_first(self.root)[::-1] if p in called(self.root)]
        writers = {**functions.WRITERS, **loops.WRITERS}
        module = Module(programs, bundles_of(self.root), self.packings(), list(self.constants), writers)
        body = self.function(module)
        lines = []
        for v, value in self.constants.items():
            lines += constant(module.known[v], constant_text(value))
        lines += [""] * (2 if lines else 0)
        code = "\n".join(spaced([*lines, *module.definitions, *body]))
        used = [line for name, line in IMPORTS.items() if re.search(rf"\b{name}\.", code)]
        return "\n".join([*used, "", "", code]) + "\n"

    # Arguments and results.

    def parameters(self) -> tuple[list[str], list[str]]:
        """The names of the positional and of the keyword arguments."""
        try:
            signature = inspect.signature(self.fun)
            bound = list(signature.bind(*self.args, **self.kwargs).signature.parameters.values())
        except (TypeError, ValueError):
            bound = []
        positional = [p.name for p in bound if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        rest = next((p.name for p in bound if p.kind is p.VAR_POSITIONAL), "x")
        count = len(self.args)
        names = [*positional[:count], *(f"{rest}_{i}" for i in range(count - len(positional[:count])))]
        return [f"{name}_" if name in RESERVED else name for name in names], list(self.kwargs)

    def function(self, module: Module) -> list[str]:
        positional, keywords = self.parameters()
        block = Block(module, self.root, Namespace([*module.names.taken, *positional, *keywords]), {})
        unpacking = self.unpack(block, positional, keywords)
        self.name_results(block, positional)
        body = block.statements(4)
        static = self.static_names(positional, keywords)
        decorator = "@jax.jit"
        if static:
            decorator = f"@jax.jit(static_argnames={tuple(static)!r})"
        head = ", ".join([*positional, *(["*", *keywords] if keywords else [])])
        result = self.result(block, positional, keywords)
        lines = [decorator, *statement(f"def value_and_grad({head}):", 0)]
        lines.append(f"    {self.docstring(positional)}")
        for line in unpacking:
            lines += statement(line, 4)
        return [*lines, *body, *statement(f"return {result}", 4)]

    def packings(self) -> dict[Program, Packing]:
        positional, keywords = self.parameters()
        places = {
            v: Place(argument, tuple(path))
            for v, (argument, path, _) in zip(self.root.inputs, self.leaves(positional, keywords), strict=True)
        }
        uses = self.root.uses()
        outputs = self.root.outputs[len(self.root.outputs) - self.gradient_count() :]
        gradients = {
            v: places[leaf]
            for v, leaf in zip(outputs, self.differentiated(), strict=True)
            if type(v) is Var and leaf is not None and uses[v] == 1
        }
        arguments = {**dict(zip(positional, self.args, strict=True)), **self.kwargs}
        return packings_of(self.root, places, gradients, arguments)

    def docstring(self, positional: Sequence[str]) -> str:
        name = re.sub(r"[^\w<>.]", "", getattr(self.fun, "__name__", "<function>"))
        names = [positional[i] for i in self.wanted()]
        of = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
        return f'"""The value of {name} and its gradient with respect to {of}."""'

    def leaves(self, positional: Sequence[str], keywords: Sequence[str]) -> list[tuple[str, list[Any], Any]]:
        """For each array leaf of the arguments: its argument, the keys that lead to it, and its number there."""
        found = []
        static = iter(self.staged.static)
        for name, arg in [*zip(positional, self.args, strict=True), *((k, self.kwargs[k]) for k in sorted(keywords))]:
            for number, (path, _) in enumerate(jax.tree_util.tree_flatten_with_path(arg)[0]):
                if not next(static):
                    found.append((name, list(path), number))
        return found

    def static_names(self, positional: Sequence[str], keywords: Sequence[str]) -> list[str]:
        array_names = {name for name, _, _ in self.leaves(positional, keywords)}
        given = [*zip(positional, self.args, strict=True), *self.kwargs.items()]
        return [name for name, arg in given if name not in array_names and jax.tree.leaves(arg)]

    def unpack(self, block: Block, positional: Sequence[str], keywords: Sequence[str]) -> list[str]:
        """Statements that take the leaves out of the arguments."""
        leaves = self.leaves(positional, keywords)
        self.leaf_of = dict(zip(self.root.inputs, leaves, strict=True))
        short = leaf_names([(name, path) for name, path, _ in leaves])
        uses = Counter(block.uses)
        for eqn in self.root.equations:
            packing = block.module.packings.get(eqn.params["program"]) if eqn.name == "call" else None
            for group in packing.inputs if packing else ():
                uses.subtract(eqn.inputs[i] for i in group.members)
        groups: dict[Any, list[tuple[str, str]]] = {}
        for var, (argument, path, number), name in zip(self.root.inputs, leaves, short, strict=True):
            if not path:
                block.texts[var] = Text(argument)
                block.module.known[var] = argument
                block.module.given.add(var)
                continue
            if not uses[var]:
                block.module.known[var] = name
                continue
            block.hints[var] = name
            fresh = block.bind(var, None)
            access = accessed(argument, path)
            if access is None:
                access = f"jax.tree.leaves({argument})[{number}]"
            groups.setdefault((argument, str(path[:-1])), []).append((fresh, access))
        return [line for pairs in groups.values() for line in unpacking(pairs, WIDTH - 4)]

    def name_results(self, block: Block, positional: Sequence[str]) -> None:
        """Hints for the names of the value and of the gradients."""
        outputs = self.root.outputs
        value, gradients = outputs[0], outputs[len(outputs) - self.gradient_count() :]
        backward = {v for eqn in self.root.equations if eqn.backward for v in eqn.outputs}
        for var, leaf in zip(gradients, self.differentiated(), strict=True):
            if type(var) is Var and var in backward and leaf is not None:
                block.hints.setdefault(var, f"ct_{block.module.known[leaf]}")
        if type(value) is Var:
            block.hints.setdefault(value, "value")

    def gradient_count(self) -> int:
        return sum(len(jax.tree.leaves(self.args[i])) for i in self.wanted())

    def wanted(self) -> list[int]:
        numbers = [self.argnums] if isinstance(self.argnums, int) else list(self.argnums)
        return [i % len(self.args) for i in numbers]

    def differentiated(self) -> list[Var | None]:
        """The input behind each leaf of the gradient."""
        by_argument: dict[int, list[Var]] = {}
        inputs = iter(self.root.inputs)
        static = iter(self.staged.static)
        for i, arg in enumerate(self.args):
            by_argument[i] = [next(inputs) for _ in jax.tree.leaves(arg) if not next(static)]
        return [v for i in self.wanted() for v in by_argument[i]]

    def result(self, block: Block, positional: Sequence[str], keywords: Sequence[str]) -> str:
        texts = [str(block.typed(x)) for x in self.root.outputs]
        count = self.gradient_count()
        first, gradients = texts[: len(texts) - count], iter(texts[len(texts) - count :])
        trees = []
        for i in self.wanted():
            structure: Any = jax.tree.structure(self.args[i])
            own = [next(gradients) for _ in range(structure.num_leaves)]
            trees.append(tree_text(structure, own, f"jax.tree.structure({positional[i]})"))
        gradient = (
            trees[0] if isinstance(self.argnums, int) else f"({', '.join(trees)}{',' if len(trees) == 1 else ''})"
        )
        if not self.has_aux:
            return f"{first[0]}, {gradient}"
        value_tree = self.staged.out_tree.children()[0]
        aux = tree_text(value_tree.children()[1], first[1:], None)
        return f"({first[0]}, {aux}), {gradient}"


def called(root: Program) -> set[Program]:
    return {eqn.params["program"] for p in callers_first(root) for eqn in p.equations if eqn.name == "call"}


def spaced(lines: Sequence[str]) -> list[str]:
    """Lines with a blank one around every function inside of another, and none after another."""
    result: list[str] = []
    for line in lines:
        if line.startswith(" ") and line.lstrip().startswith("def "):
            at = len(result)
            while result[at - 1].lstrip().startswith("#"):
                at -= 1
            if result[at - 1] and not result[at - 1].endswith(":"):
                result.insert(at, "")
        if line.startswith(" ") and result[-1:] == [""] and result[-2:-1] and result[-2].endswith(":"):
            result.pop()
        result.append(line)
    return result


def container_of(items: Mapping[str, str]) -> str | None:
    """The dict that all of these are the items of, None if there is none."""
    owners = {text.removesuffix(f"[{key}]") for key, text in items.items()}
    if len(owners) != 1 or any(not text.endswith(f"[{key}]") for key, text in items.items()):
        return None
    (owner,) = owners
    return owner if owner.startswith("ct_") else None


class Leaf(str):
    """The text of a leaf of a tree."""


def tree_text(structure: Any, texts: Sequence[str], structure_text: str | None) -> str:
    """A tree as a display of dicts, lists and tuples; of other classes as ``structure_text`` says, or as tuples."""
    tree = jax.tree.unflatten(structure, [Leaf(text) for text in texts])
    try:
        return display(tree)
    except TypeError:
        if structure_text is not None:
            return f"jax.tree.unflatten({structure_text}, [{', '.join(texts)}])"
        return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"


def display(tree: Any) -> str:
    if isinstance(tree, Leaf):
        return str(tree)
    if tree is None:
        return "None"
    if type(tree) is dict:
        whole = container_of({static_text(k): display(x) for k, x in tree.items()})
        if whole is not None:
            return whole
        return "{" + ", ".join(f"{static_text(k)}: {display(x)}" for k, x in tree.items()) + "}"
    if type(tree) is list:
        return f"[{', '.join(map(display, tree))}]"
    if type(tree) is tuple:
        return f"({', '.join(map(display, tree))}{',' if len(tree) == 1 else ''})"
    raise TypeError(type(tree))


def leaf_names(leaves: Sequence[tuple[str, Sequence[Any]]]) -> list[str]:
    """Names for leaves: the last key of each, with as much of what leads there as makes it the only one."""
    choices = [candidates(argument, path) for argument, path in leaves]
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
    with_numbers = [words[-1], *numbers]
    parts = [[words[-1]], with_numbers, words[-2:], [*words[-2:], *numbers], keys, [argument, *keys]]
    return list(dict.fromkeys(identifier("_".join(p)) for p in parts))


def constant(name: str, text: str) -> list[str]:
    """The definition of a constant; a long text of bytes is cut to lines."""
    line = f"{name} = {text}"
    found = re.search(r"b85decode\('(.*)'\)", line)
    if found is None:
        return statement(line, 0)
    data = found.group(1)
    head, tail = line[: found.start(1) - 1], line[found.end(1) + 1 :]
    cut = [data[i : i + WIDTH - 8] for i in range(0, len(data), WIDTH - 8)]
    return [head, *[f"    {piece!r}" for piece in cut], tail]

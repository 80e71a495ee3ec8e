"""The house rules that a program can see: imports point down and in no circle, and only the seam knows JAX's inside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import funcgrad

ROOT = Path(funcgrad.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if "examples" not in path.relative_to(ROOT).parts)
#: From the ground up; what stands beside each other may not import each other.
FLOORS = [
    ["_jax", "units"],
    ["programs"],
    ["engine"],
    ["rules"],
    ["pullback"],
    ["transforms"],
    ["budgets", "checking", "losses", "nn", "training"],
    ["inspect", "parity"],
    ["__init__", "__main__"],
]
#: What of the rules takes the tape in hand; formulas do not.
TAPE = {"rules.signature", "rules.plan", "rules.rule"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


@cache
def imports(name: str) -> tuple[tuple[str, int], ...]:
    """The modules of the package that a module imports when it is read, and the lines."""
    return tuple(found(ast.parse(MODULES[name].read_text()).body))


def found(body: list[ast.stmt]) -> Iterator[tuple[str, int]]:
    for node in body:
        if isinstance(node, ast.If):
            yield from found(node.body if ast.unparse(node.test) != "TYPE_CHECKING" else [])
            yield from found(node.orelse)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "funcgrad":
            module = node.module.removeprefix("funcgrad").lstrip(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                yield (inner if inner in MODULES else module or "__init__"), node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "funcgrad":
                    yield alias.name.removeprefix("funcgrad").lstrip(".") or "__init__", node.lineno


def floor(name: str) -> tuple[int, str]:
    room = name.split(".")[0]
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms), room


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    height, room = floor(name or "__init__")
    wrong = [
        f"{MODULES[name]}:{line} imports {other}"
        for other, line in imports(name)
        if floor(other)[0] >= height and floor(other)[1] != room
    ]
    assert wrong == []


def test_no_imports_run_in_a_circle():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            for other, _ in imports(name):
                # A package's face imports its modules, which is no part of what they need.
                if other != name and other in MODULES and not (other and name.startswith(f"{other}.")):
                    visit(other, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("engine")])
def test_the_engine_knows_no_primitive(name):
    tree = ast.parse(MODULES[name].read_text())
    names = [node.attr if isinstance(node, ast.Attribute) else node.id for node in ast.walk(tree)
             if isinstance(node, ast.Attribute | ast.Name)]  # fmt: skip
    assert [n for n in names if n.endswith("_p") and n != "_p"] == []


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("rules.") and not n.startswith("rules.control")])
def test_a_rule_that_carries_no_program_knows_no_tape(name):
    if name in TAPE or name.startswith("rules.functions"):
        return
    assert [f"{other} in line {line}" for other, line in imports(name) if other.startswith("engine")] == []


def test_the_engine_can_be_read_in_one_sitting():
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items() if name.startswith("engine")}
    assert sum(lines.values()) <= 600, lines

"""Writes ``every_rule.md``, the page of all derivative rules, from the tables themselves."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from funcgrad import rules
from funcgrad.inspect.formulas import aliases, formula_text, is_type, parts, text_of
from funcgrad.rules.control.foreign import REASONS
from funcgrad.rules.rule import Formula, Joint, Rule

INTRODUCTION = """\
# Every rule

This page is made from `fg.rules.default`. For each primitive it shows the cotangents of its operands, and what is saved
for the way back when all of them are active: for an operand that is not, nothing is computed and nothing saved.
[Rules](rules.md) tells what the names mean. Words stand for functions that are longer than a formula.
"""

FALLBACK = """\
## What is left to JAX

A primitive that is not in the table, but in JAX's own, gets JAX's rule; `fg.rules.default.foreign()` lists those. Of
the primitives that come with JAX these are:
"""


def page() -> str:
    sections = [INTRODUCTION, *map(section, rules.families), FALLBACK]
    reasons = [f"- {', '.join(map(code, names))}: {why}." for why, names in REASONS.items()]
    return "\n".join([*sections, *reasons, ""])


def section(family: ModuleType) -> str:
    title, _, text = (inspect.getdoc(family) or family.__name__).replace("``", "`").partition("\n\n")
    lines = [f"## {title.partition('. ')[0].rstrip('.')}", "", *([text, ""] if text else [])]
    rows = [row(primitives, rule) for rule, primitives in by_rule(family) if rule is not rules.no_derivative]
    if rows:
        lines += ["| primitive | cotangents | saved |", "| --- | --- | --- |", *rows, ""]
    for rule, primitives in by_rule(family):
        if rule is rules.no_derivative:
            lines += [f"Without derivative: {', '.join(map(code, primitives))}.", ""]
    return "\n".join(lines)


def by_rule(family: ModuleType) -> Iterable[tuple[Rule, list]]:
    """The rules of a family, each with the primitives that have it."""
    groups: dict[Rule, list] = {}
    for primitive, rule in family.rules.items():
        groups.setdefault(rule, []).append(primitive)
    return groups.items()


def row(primitives: list, rule: Rule) -> str:
    texts = formula_text(rule)
    if isinstance(rule, Formula) and len(texts) > 1:
        shown = [f"{name}: {formula(text)}" for name, text in zip("xyz", texts, strict=False) if text != "0"]
    else:
        shown = [formula(text) for text in texts if text != "0"]
    computed = derived_text(rule)
    saved = [f"{code(x)} = {formula(computed[x])}" if x in computed else code(x) for x in saved_names(rule)]
    return f"| {', '.join(map(code, primitives))} | {'<br>'.join(shown)} | {'<br>'.join(saved)} |"


def saved_names(rule: Rule) -> list[str]:
    """What a rule saves when all operands are active: operands and outputs by name, or what it computes to save it."""
    if isinstance(rule, Formula):
        names = [name for s in rule.signatures if s is not None for name in s.names]
    elif isinstance(rule, Joint):
        names = list(rule.names)
    else:
        names = [*rule.saved, *(name for part in parts(rule) for name in saved_names(part))]
    known = aliases(rule)
    return [name for name in dict.fromkeys(known.get(name, name) for name in names) if not is_type(name)]


def derived_text(rule: Rule) -> dict[str, str]:
    """What a rule computes on the way forward in order to save it, as text."""
    if isinstance(rule, Formula | Joint):
        return {name: text_of(s.function) for name, s in rule.derived.items() if name not in aliases(rule)}
    return {name: text for part in parts(rule) for name, text in derived_text(part).items()}


def formula(text: str) -> str:
    """A text as code, if that is what it is."""
    try:
        ast.parse(text)
    except SyntaxError:
        return text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")
    return code(text)


def code(text: object) -> str:
    return f"`{text}`".replace("|", "\\|")


def write(folder: Path) -> None:
    path = folder / "every_rule.md"
    text = page()
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")

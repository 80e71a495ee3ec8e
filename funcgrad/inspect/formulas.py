"""Rules as text: a rule's formulas, read from its source and written as in a textbook.

``lambda ct, x, y: mul(ct, div(y, x))`` reads ``ct * (y / x)``. A helper of one expression is written out; one with a
docstring says in its first sentence what it computes, and that is what is shown where it is the whole formula.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jax.extend.core import Primitive

from funcgrad.rules.table import Formula, Joint, Rule, Signature

__all__ = ["derived_text", "formula_text", "saved_names"]

#: Formulas that come out longer than this are shown by name.
LONGEST = 120


def formula_text(rule: Rule) -> list[str]:
    """The cotangents that a rule gives, as text.

    Args:
      rule: a rule of a table, such as ``funcgrad.rules.default[jax.lax.mul_p]``.

    Returns:
      A string for each operand, ``"0"`` for one without derivative. A rule that has one function for all operands may
      give one string for all of them, and a rule without derivative gives none.

    >>> from jax import lax
    >>> from funcgrad.rules import default
    >>> formula_text(default[lax.mul_p])
    ['ct * y', 'ct * x']
    >>> formula_text(default[lax.tan_p])
    ['ct * (1 + out**2)']
    """
    if isinstance(rule, Formula):
        return ["0" if s is None else text_of(s.function, s.names) for s in rule.signatures]
    if isinstance(rule, Joint):
        return joint_text(rule.signature)
    if rule.formula:
        return [rule.formula]
    return [line for part in parts(rule) for line in formula_text(part) if line != "0"]


def saved_names(rule: Rule) -> list[str]:
    """What a rule saves for the way back when all operands are active: operands, outputs, or names it computes.

    >>> from jax import lax
    >>> from funcgrad.rules import default
    >>> saved_names(default[lax.mul_p]), saved_names(default[lax.neg_p])
    (['y', 'x'], [])
    """
    if isinstance(rule, Formula):
        names = [name for s in rule.signatures if s is not None for name in s.names]
    elif isinstance(rule, Joint):
        names = list(rule.names)
    else:
        names = [*rule.saved, *(name for part in parts(rule) for name in saved_names(part))]
    return [name for name in dict.fromkeys(names) if not name.endswith(("_aval", "avals"))]


def derived_text(rule: Rule) -> dict[str, str]:
    """How what a rule computes on the way forward, in order to save it, is computed.

    >>> from jax import lax
    >>> from funcgrad.rules import default
    >>> derived_text(default[lax.max_p])
    {'x_wins': 'x == out', 'y_wins': 'y == out'}
    """
    if isinstance(rule, Formula | Joint):
        return {name: text_of(s.function, s.names) for name, s in rule.derived.items()}
    return {name: text for part in parts(rule) for name, text in derived_text(part).items()}


def parts(rule: Rule) -> list[Rule]:
    """The rules that another one chooses between."""
    return [x for x in vars(rule).values() if isinstance(x, Rule)]


def joint_text(signature: Signature) -> list[str]:
    whole = Reader.of(signature.function)
    function = inspect.unwrap(signature.function)
    if not inspect.getdoc(function) and whole is not None:
        try:
            result = whole.result()
        except Unreadable:
            result = None
        if isinstance(result, list):
            texts = [x.text for x in result]
            if all(len(text) <= LONGEST for text in texts):
                return texts
    return [text_of(signature.function, signature.names)]


def text_of(function: Callable, names: Sequence[str]) -> str:
    """A function of a rule: the first sentence of its docstring, its formula, or its name and what it is given."""
    inner = inspect.unwrap(function)
    summary = first_sentence(inner)
    if summary:
        return summary
    reader = Reader.of(inner)
    if reader is not None:
        try:
            result = reader.result()
        except Unreadable:
            result = None
        if isinstance(result, Text) and len(result.text) <= LONGEST:
            return result.text
    name = getattr(inner, "__name__", "formula")
    shown = [n for n in names if not n.endswith(("_aval", "avals")) and n != "active"]
    given = list(inspect.signature(inner).parameters)[:1] if "ct" in inspect.signature(inner).parameters else []
    return f"{'formula' if name == '<lambda>' else name}({', '.join([*given, *shown])})"


def first_sentence(function: Callable) -> str:
    doc = inspect.getdoc(function) if not isinstance(function, type) else None
    return "" if not doc else " ".join(doc.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")

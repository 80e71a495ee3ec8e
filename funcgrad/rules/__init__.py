"""Derivative rules: one file per family of primitives, gathered in immutable tables."""

from funcgrad.rules import (
    collectives,
    contractions,
    convolutions,
    cumulative,
    elementwise,
    fft,
    indexing,
    linalg,
    markers,
    ordering,
    placement,
    ragged,
    random,
    reductions,
    refs,
    scatters,
    shaping,
    special,
    windows,
)
from funcgrad.rules.control import calls, cond, foreign, jit, loop, remat, scan, shard_map
from funcgrad.rules.control.loop import While
from funcgrad.rules.table import Formula, Joint, Rule, RuleTable, broadcasting, formula, joint, no_derivative

__all__ = [
    "Formula",
    "Joint",
    "Rule",
    "RuleTable",
    "While",
    "broadcasting",
    "default",
    "formula",
    "joint",
    "no_derivative",
]

#: The modules of rules, in the order in which they are read.
families = (
    elementwise,
    shaping,
    reductions,
    contractions,
    ragged,
    indexing,
    scatters,
    windows,
    cumulative,
    convolutions,
    ordering,
    placement,
    markers,
    linalg,
    fft,
    special,
    random,
    refs,
    jit,
    scan,
    cond,
    loop,
    remat,
    calls,
    collectives,
    shard_map,
    foreign,
)

#: Every rule the library has.
default = RuleTable(
    {primitive: rule for family in families for primitive, rule in family.rules.items()}, fallback=foreign.FOREIGN
)

"""Derivative rules: one file per family of primitives, gathered in immutable tables."""

from collections.abc import Mapping
from typing import Any

from funcgrad.rules import (
    collectives,
    contractions,
    convolutions,
    cumulative,
    elementwise,
    fft,
    indexing,
    later,
    linalg,
    ordering,
    placement,
    random,
    reductions,
    shaping,
    special,
    windows,
)
from funcgrad.rules.control import calls, cond, custom, foreign, jit, refs, remat, scan, shard_map, while_loop
from funcgrad.rules.control.scan import Scan
from funcgrad.rules.control.while_loop import While
from funcgrad.rules.functions import bessel, norms, pinv, points, with_own_jvp
from funcgrad.rules.rule import Formula, Joint, Rule, Wrapped, broadcasting, formula, joint, no_derivative
from funcgrad.rules.table import RuleTable
from funcgrad.rules.tables import accurate as accurately
from funcgrad.rules.tables import degenerate as of_equal_values
from funcgrad.rules.tables import estimators, pytorch, saliency
from funcgrad.rules.tables.wrapping import clipped, in_bfloat16, nan_safe, noisy

__all__ = [
    "Formula",
    "Joint",
    "Rule",
    "RuleTable",
    "Scan",
    "While",
    "Wrapped",
    "accurate",
    "broadcasting",
    "clipped",
    "deconvnet",
    "default",
    "degenerate",
    "formula",
    "guided_backpropagation",
    "in_bfloat16",
    "joint",
    "nan_safe",
    "no_derivative",
    "noisy",
    "straight_through",
    "torch",
]

#: The modules of rules, in the order in which they are read.
families = (
    elementwise,
    shaping,
    reductions,
    contractions,
    indexing,
    windows,
    cumulative,
    convolutions,
    ordering,
    placement,
    linalg,
    fft,
    special,
    later,
    random,
    refs,
    jit,
    scan,
    cond,
    while_loop,
    remat,
    calls,
    custom,
    collectives,
    shard_map,
    foreign,
    norms,
    points,
    bessel,
    pinv,
    with_own_jvp,
)

#: Every rule the library has.
default = RuleTable(
    {primitive: rule for family in families for primitive, rule in family.rules.items()}, fallback=foreign.FOREIGN
)


def table_of(rules: RuleTable | None) -> RuleTable:
    """The table that the argument ``rules`` of a function stands for."""
    if rules is None:
        return default
    if not isinstance(rules, RuleTable):
        raise TypeError(
            f"rules= takes a whole table, but got a {type(rules).__name__}. Make one with rules of your own by "
            "rules=fg.rules.default.override({key: rule})."
        )
    return rules


def beside(rules: Mapping[Any, Any], keeps_source: bool = False) -> RuleTable:
    """A table of the package's: the default's rules of functions do not yield to these."""
    return RuleTable(dict(default.override(rules)), default.fallback, keeps_source)


#: PyTorch's subgradients, wherever they differ from JAX's.
torch = beside(pytorch.rules)

#: Eigenvectors and singular vectors of equal values, for losses that do not depend on the choice of a basis.
degenerate = beside(of_equal_values.rules)

#: Right to a few ulp where the derivative is a normal number, whatever that keeps or costs.
accurate = beside(accurately.rules, keeps_source=True)

#: Rounding, signs and comparisons that pass the cotangent on as if they were the identity.
straight_through = beside(estimators.rules)

#: ``jax.nn.relu`` as for pictures of what a network looks at.
guided_backpropagation = beside(saliency.guided)
deconvnet = beside(saliency.deconvolution)

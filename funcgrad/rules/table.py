"""The immutable table that holds the rules."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from funcgrad import _jax
from funcgrad.rules.functions.recognition import FunctionKey, key_of, primitives_in
from funcgrad.rules.functions.rules import entry
from funcgrad.rules.rule import Rule


class RuleTable(Mapping[Any, Rule]):
    """An immutable table of derivative rules, by primitive or by jitted function.

    Tables are passed, never registered: ``fg.grad(f, rules=fg.rules.default.override({lax.round_p: lambda ct: ct}))``.
    Tables of equal rules are equal, and ``override`` returns one that is there already, so that what was made of a
    program by these rules is not made again.
    """

    __slots__ = (
        "__weakref__", "_derived", "_functions", "_hash", "_rules", "changed", "fallback", "keeps_source",
        "of_primitive",
    )  # fmt: skip

    def __init__(
        self,
        rules: Mapping[Any, Rule],
        fallback: Rule | None = None,
        keeps_source: bool = False,
        hashed: int | None = None,
        changed: frozenset[Any] = frozenset(),
    ):
        self._rules: dict[Any, Rule] = dict(rules)
        self._derived: weakref.WeakKeyDictionary[Callable[[RuleTable], RuleTable], RuleTable] = (
            weakref.WeakKeyDictionary()
        )
        #: Whether every operation is recorded one by one, those that are run eagerly with their line too.
        self.keeps_source = keeps_source
        self._hash = sum(map(hash, self._rules.items())) if hashed is None else hashed
        #: The rule of a primitive, None where there is none.
        self.of_primitive: Callable[[Any], Rule | None] = self._rules.get
        #: The functions among the keys, by where they say that they come from.
        self._functions: dict[str, list[FunctionKey]] = {}
        for key in self._rules:
            if isinstance(key, FunctionKey):
                self._functions.setdefault(key.source, []).append(key)
        #: The rule of primitives that are not in the table but in JAX's own, None for none.
        self.fallback = fallback
        #: The keys that have been given another rule.
        self.changed = changed

    def override(self, rules: Mapping[Any, Any]) -> RuleTable:
        """A new table with ``rules`` in place of this one's.

        A key is a primitive, or a jitted function such as ``jnp.clip``, whose rule then stands for all of it in every
        place it is called.

        The rule of a primitive is a formula (for the first operand), a sequence of them (one per operand, None for no
        derivative), or a ``Rule``. That of a function is a formula, or a sequence with one per argument, that names
        what it needs of the arguments and ``out``; or a pair as for ``jax.custom_vjp``, ``fwd(*args) -> (out,
        residuals)`` and ``bwd(residuals, ct) -> cts``; or a dict of rules that hold inside the function only.

        Raises:
          TypeError: a key can never match, such as a function that is not jitted, or a rule names what there is not.

        >>> import jax.numpy as jnp
        >>> import funcgrad as fg
        >>> through = fg.rules.default.override({jnp.clip: lambda ct: ct})
        >>> f = lambda x: jnp.clip(x, 0.0, 1.0)
        >>> fg.grad(f)(3.0), fg.grad(f, rules=through)(3.0)
        (Array(0., dtype=float32, weak_type=True), Array(1., dtype=float32, weak_type=True))
        """
        changes = dict(entry(key, rule) for key, rule in rules.items())
        if len(changes) < len(rules):
            ((twice, _),) = Counter(entry(key, rule)[0] for key, rule in rules.items()).most_common(1)
            raise TypeError(
                f"two of the keys are the function {twice}: programs of a function that is jitted twice cannot be told "
                "apart. Give one rule, or jit a function of its own for each."
            )
        return self.replacing(changes)

    def replacing(self, rules: Mapping[Any, Rule]) -> RuleTable:
        """This table with other rules for some of its keys, both as tables hold them."""
        before = {key: self._rules[key] for key in rules if key in self._rules}
        hashed = self._hash + sum(map(hash, rules.items())) - sum(map(hash, before.items()))
        changed = self.changed.union(rules)
        table = RuleTable({**self._rules, **rules}, self.fallback, self.keeps_source, hashed, changed)
        known = tables.get(table)
        equal = None if known is None else known()
        if equal is None:
            tables[table] = weakref.ref(table)
        return equal or table

    def map(self, wrap: Callable[[Rule], Rule], keeps_source: bool = False) -> RuleTable:
        """The table of these rules, and the fallback, each wrapped."""
        rules = {key: wrap(rule.map(wrap)) for key, rule in self._rules.items()}
        fallback = None if self.fallback is None else wrap(self.fallback)
        return RuleTable(rules, fallback, keeps_source, changed=self.changed)

    def derived(self, make: Callable[[RuleTable], RuleTable]) -> RuleTable:
        """What ``make`` makes of this table: always the same, since programs are split once for each table."""
        known = self._derived.get(make)
        if known is None:
            known = self._derived[make] = make(self)
        return known

    @property
    def functions(self) -> list[FunctionKey]:
        """The functions that have a rule."""
        return [key for keys in self._functions.values() for key in keys]

    def of_program(self, program: Any) -> Rule | None:
        """The rule of the function that a jitted program is of, None where that has none.

        The package's own rule of one of JAX's functions yields to a rule that a primitive in it has been given.
        """
        keys = self._functions.get(program.jaxpr.debug_info.func_src_info)
        key = None if keys is None else next((key for key in keys if key.is_of(program)), None)
        if key is None or (key not in self.changed and not self.changed.isdisjoint(primitives_in(program))):
            return None
        return self._rules[key]

    def has_rule_of(self, custom: Any) -> bool:
        """Whether the jitted function that a ``custom_jvp`` or ``custom_vjp`` function is of has a rule."""
        if custom.debug_info.func_src_info not in self._functions:
            return False
        inside = _jax.jitted_inside(custom)
        if isinstance(inside, _jax.ClosedJaxpr):
            return self.of_program(inside) is not None
        return inside is not None and FunctionKey(inside) in self._rules

    def foreign(self) -> list[Any]:
        """The primitives, by name, that use the fallback: those that only JAX's tables have a rule for."""
        known = {p for p in _jax.foreign_jvps if p not in self._rules}
        return sorted(known, key=str) if self.fallback is not None else []

    def missing(self, primitive: Any) -> Rule:
        """The fallback for a primitive without a rule, or the error that names the user's line."""
        tables = (_jax.foreign_jvps, _jax.foreign_linearizations, _jax.foreign_transposes)
        known_to_jax = any(primitive in table for table in tables)
        if self.fallback is not None and known_to_jax:
            return self.fallback
        raise NotImplementedError(
            f"funcgrad has no derivative rule for the primitive '{primitive}', used at "
            f"{_jax.user_line(_jax.current_source())}. Pass one: "
            "rules=fg.rules.default.override({primitive: rule}), where rule is a function such as "
            "`lambda ct, x: ...` per operand."
        )

    def __getitem__(self, key: Any) -> Rule:
        return self._rules[key_of(key) if callable(key) else key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def __hash__(self) -> int:
        return hash(self._hash)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, RuleTable)
            and self._hash == other._hash
            and self.keeps_source == other.keeps_source
            and self.fallback == other.fallback
            and self._rules == other._rules
        )

    def __repr__(self) -> str:
        functions = len(self.functions)
        return f"RuleTable({len(self) - functions} primitives{f', {functions} functions' if functions else ''})"


#: The tables that there are, so that one is made once.
tables: weakref.WeakKeyDictionary[RuleTable, weakref.ref[RuleTable]] = weakref.WeakKeyDictionary()

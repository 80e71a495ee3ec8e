"""``explain``: one forward and backward pass, watched."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax

from funcgrad import _jax
from funcgrad.inspect.assembly import Argument, Assembly, Seen
from funcgrad.inspect.cuts import find_cuts
from funcgrad.inspect.opened import Watch, noting
from funcgrad.inspect.report import BackwardReport
from funcgrad.inspect.statistics import measure
from funcgrad.rules import RuleTable, table_of
from funcgrad.transforms import P, check_input, run, split_arguments

__all__ = ["explain"]


def explain(
    fun: Callable[P, Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, *, rules: RuleTable | None = None
) -> Callable[P, BackwardReport]:
    """A function that runs the forward and backward pass of ``fun`` once and reports every step of the way back.

    Args:
      fun: a function as ``funcgrad.grad`` takes it. If it returns more than one real scalar, the way back starts from a
        cotangent of ones.
      argnums: which positional arguments are differentiated, as for ``funcgrad.grad``.
      has_aux: whether ``fun`` returns a pair of which only the first is differentiated.
      rules: the derivative rules, ``funcgrad.rules.default`` if None.

    Returns:
      A function of ``fun``'s arguments that returns a ``BackwardReport``. Calls, branches and loops are opened into the
      steps inside them; what cannot be opened (a ``shard_map``, a kernel, a loop in a loop whose length is not known
      before it runs) is one step. The forward pass runs operation by operation or in the jitted functions of ``fun``,
      as it does under ``grad``.

    Raises:
      TypeError: an argument is not differentiable, or the function is traced (inside ``jit`` or ``vmap``), where there
        are no numbers to report.

    >>> import jax.numpy as jnp
    >>> report = explain(lambda w, x: jnp.exp(w * x))(0.5, 2.0)
    >>> [(step.primitive, step.formula) for step in report.steps]
    [('exp', 'ct * out'), ('mul', 'ct * y')]
    >>> report.steps[1].incoming[0].norm
    2.7182817459106445
    """
    _jax.check_callable(fun)
    argnums = _jax.concrete_or_error(_jax.ensure_index, argnums)

    @_jax.wraps(fun, docstr="Report of the backward pass of {fun}. Takes the arguments of {fun}.")
    @_jax.api_boundary
    def explained(*args: Any, **kwargs: Any) -> BackwardReport:
        partial, dynamic = split_arguments(fun, argnums, args, kwargs)
        for leaf in jax.tree.leaves(dynamic):
            check_input("explain", leaf, False, False)
            refuse_traced(leaf)
        used = table_of(rules)
        caller = _jax.user_frames(_jax.current_source())
        out, recording, signature, leaves, _ = run(partial, dynamic, has_aux, used.derived(noting_all))
        jax.tree.map(refuse_traced, out)
        seen: list[Seen] = []
        cts = Watch(measure, lambda *s: seen.append(Seen(*s))).back(recording, signature, out)
        slots = signature.in_slots
        measured = [None if slot is None or cts[slot] is None else measure(cts[slot]) for slot in slots]
        # From the device in one go.
        observed, rows = jax.device_get(([s.observation for s in seen], measured))
        seen = [s._replace(observation=x) for s, x in zip(seen, observed, strict=True)]
        lost = [i for i, row in enumerate(rows) if row is None and slots[i] is not None]
        cuts = find_cuts(partial, dynamic, lost, used) if lost else {}
        arguments = [
            Argument(number, path, _jax.typeof(leaves[i]), slots[i], rows[i], cuts.get(i, ()))
            for i, (number, path) in enumerate(argument_paths(fun, argnums, dynamic))
        ]
        held = {id(x) for x in (*leaves, *jax.tree.leaves((args, kwargs)))}
        name = getattr(fun, "__name__", type(fun).__name__)
        return Assembly(signature, seen, arguments, held, caller, name, out).report()

    return explained


def noting_all(rules: RuleTable) -> RuleTable:
    return rules.map(noting, keeps_source=True)


def refuse_traced(x: Any) -> None:
    if _jax.is_tracer(x):
        raise TypeError(
            "explain reports numbers, but was called inside a function that is being traced (by jit, grad or vmap), "
            "where there are none yet. Call it outside; funcgrad.cotangents works inside too."
        )


def argument_paths(fun: Callable, argnums: int | Sequence[int], dynamic: Sequence[Any]) -> list[tuple[int, str]]:
    """For each leaf of the differentiated arguments the number of its argument, and how it is written."""
    numbers = [argnums] if isinstance(argnums, int) else argnums
    try:
        names = list(inspect.signature(fun).parameters)
    except (TypeError, ValueError):
        names = []
    return [
        (number, (names[number] if number < len(names) else f"args[{number}]") + jax.tree_util.keystr(path))
        for number, tree in zip(numbers, dynamic, strict=True)
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]

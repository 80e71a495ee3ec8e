"""The verdict: whether two programs that should compute the same differ by rounding or by a bug.

In float32 a small bug and rounding look alike. In float64 they do not: rounding shrinks by a factor of 5e8, and a bug
stays. So both sides run in float64 too, and the port is faithful where these runs agree.

To the last bit they never do. How far rounding can move them depends on the program, on how much it magnifies errors,
and that is measured: each side's float32 run lies some distance from its own float64 run, and this distance shrinks as
the unit roundoff does. Two float64 runs of one gradient may lie apart by

    1000 (eps64 / eps32) (|jax32 - jax64| + |torch32 - torch64|) + 64 eps64 max |gradients|

where |.| is the largest element and what is in parentheses at most the largest gradient. The first term is a millionth
of float32's rounding, so its factor leaves room for luck and hides nothing. The second is for what cancels, like the
gradient of a bias before a normalisation: what remains is noise as large as that of the terms that cancelled, hence the
maximum over all gradients. For the loss and for named values the maximum is that of the losses and of all such values.

Where the float64 runs agree, a difference in a lower precision is within the two sides' own distances to that result,
by the triangle inequality. So it is rounding, however large, and if one side rounds far more than the other the report
says so. What is left to judge there is whether both overflow alike.

A module's float32 buffers, such as a table of positions, are rounded numbers in the float64 run as well. They are moved
by half a unit in the last place, and eight times what this does to torch's result is allowed besides: to this leaf or,
since a single number may stay where it is by luck, relative to its size what it does to all gradients.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from funcgrad.parity.distances import distance, largest, relative_distance, ulps
from funcgrad.parity.modules import ModuleLoss
from funcgrad.parity.report import ParityReport, Parting, Row, Verdict
from funcgrad.parity.sides import Inputs, Run, run_jax, run_torch
from funcgrad.rules import RuleTable, table_of

EPS64 = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)
NOISE_FACTOR = 1000
FLOOR = 64
BUFFER_FACTOR = 8
#: A side whose rounding is so many times the other's is told apart.
UNEVEN = 100


def compare(
    jax_loss: Callable[..., Any],
    torch_loss: Callable[..., Any],
    params: Any,
    *batch: Any,
    rules: RuleTable | None = None,
) -> ParityReport:
    """Hold a function in JAX and its gradients against the same function in PyTorch.

    Args:
      jax_loss: ``jax_loss(params, *batch)``, a real scalar. It is run more than once, one operation after the other.
      torch_loss: ``torch_loss(params, *batch)``, pure, on tensors: ``fg.parity.module_loss(module, loss)``, or a
        function of your own. ``params`` has the same structure on both sides.
      params: a tree of floating-point arrays, such as ``fg.parity.params_of(module)``. Theirs is the dtype compared.
      *batch: arrays of either side, or trees of them; both sides get the same numbers.
      rules: the derivative rules of the jax side, ``fg.rules.default`` if None. With rules of whole functions, as
        ``fg.rules.torch`` has, values named inside of ``jit`` and loops are not compared.

    Returns:
      A ``ParityReport``. Where a gradient or the loss is not the same it says which of the values named on both sides
      is the first to differ: by ``jax.ad_checkpoint.checkpoint_name``, and by the names of the modules inside the one
      given to ``module_loss``. On jax's side channels may be last and the first two dimensions swapped.

    Raises:
      TypeError: a parameter is not of a floating-point dtype, a loss is not a scalar, or the batch has a PRNG key.
      ValueError: the parameters are not the module's, ``torch_loss`` does not depend on them, or a side draws random
        numbers.

    >>> import funcgrad as fg, jax.numpy as jnp, torch
    >>> def jax_loss(params, x, y):
    ...     return jnp.mean((x @ params["weight"].T + params["bias"] - y) ** 2)
    >>> module = torch.nn.Linear(3, 1)
    >>> torch_loss = fg.parity.module_loss(module, torch.nn.functional.mse_loss)
    >>> report = compare(jax_loss, torch_loss, fg.parity.params_of(module), np.ones((4, 3)), np.ones((4, 1)))
    >>> report.ok
    True
    """
    rules = table_of(rules)
    inputs = Inputs.of(params, batch)
    evidence = Evidence(jax_loss, torch_loss, inputs, rules)
    rows = evidence.rows()
    report = ParityReport(str(inputs.dtype()), rows[0], tuple(rows[1:]))
    if not report.ok:
        report = replace(report, **evidence.partings(report.loss))
    return replace(report, notes=(*report.notes, *remarks(report, evidence)))


class Pair(NamedTuple):
    """A value of the jax side and of the torch side."""

    jax: Any
    torch: Any


@contextlib.contextmanager
def explained(side: str, dtype: Any) -> Iterator[None]:
    """Say in errors which run raised them, if it is one that the user did not ask for."""
    try:
        yield
    except Exception as error:
        if dtype is not None:
            error.add_note(f"This was the {side} side's run in {np.dtype(dtype)}, by which its rounding is judged.")
        raise


class Evidence:
    """The runs that a verdict rests on: both sides in the dtypes given, in float32 and in float64."""

    def __init__(self, jax_loss: Callable, torch_loss: Callable, inputs: Inputs, rules: RuleTable):
        self.sides = jax_loss, torch_loss
        self.inputs = inputs
        self.rules = rules
        self.given = self.run()
        self.exact = self.run(np.float64, wide=True)
        self.narrow = self.given if inputs.dtype() == np.float32 else self.run(np.float32)
        nudged = torch_loss.nudged() if isinstance(torch_loss, ModuleLoss) else None
        #: The torch side with its buffers moved, where it has any, and by how much of their size that moves gradients.
        self.nudged = None if nudged is None else run_torch(nudged, inputs, np.float64, wide=True)
        self.scale = largest(x for run in self.exact for x in run.grads.values())
        moves = self.nudged.grads if self.nudged else self.exact.torch.grads
        moved = max(distance(x, self.exact.torch.grads[name], finite=True) for name, x in moves.items())
        self.blur = moved / self.scale if moved else 0.0

    def run(self, dtype: Any = None, *, wide: bool = False) -> Pair:
        jax_loss, torch_loss = self.sides
        with explained("torch", dtype):
            torch_run = run_torch(torch_loss, self.inputs, dtype, wide=wide)
        with explained("jax", dtype):
            return Pair(run_jax(jax_loss, self.inputs, self.rules, dtype, wide=wide), torch_run)

    def rows(self) -> list[Row]:
        """The loss, and the gradients in the module's order."""
        names = list(self.exact.jax.grads)
        if isinstance(self.sides[1], ModuleLoss):
            order = [name for name, _ in self.sides[1].module.named_parameters(remove_duplicate=False)]
            names.sort(key=order.index)
        loss = self.row("loss", lambda run: run.loss, largest(run.loss for run in self.exact))
        return [loss, *[self.row(name, partial(gradient, name), self.scale) for name in names]]

    def row(self, path: str, get: Callable[[Run], np.ndarray], scale: float) -> Row:
        given, exact = Pair(*map(get, self.given)), Pair(*map(get, self.exact))
        apart, allowed = self.separation(get, get, scale)
        return Row(
            path,
            given.jax.shape,
            str(given.jax.dtype),
            verdict(given, exact, apart, allowed),
            distance(*given),
            relative_distance(*given),
            ulps(*given),
            distance(given.jax, exact.jax),
            distance(given.torch, exact.torch),
            apart,
            allowed,
            hint(*exact) if apart > allowed else "",
        )

    def separation(self, ours: Callable, theirs: Callable, scale: float) -> tuple[float, float]:
        """How far two float64 results lie apart, and how far rounding can move them (see the module's text).

        ``ours`` and ``theirs`` take the result from a run of the jax side and of the torch side.
        """
        exact = Pair(ours(self.exact.jax), theirs(self.exact.torch))
        narrow = Pair(ours(self.narrow.jax), theirs(self.narrow.torch))
        noise = min(scale, sum(distance(*pair, finite=True) for pair in zip(narrow, exact, strict=True)))
        moved = self.blur * largest([exact.torch])
        if self.nudged is not None:
            moved = max(moved, distance(theirs(self.nudged), exact.torch, finite=True))
        allowed = NOISE_FACTOR * EPS64 / EPS32 * noise + FLOOR * EPS64 * scale + BUFFER_FACTOR * moved
        return distance(*exact), allowed

    def partings(self, loss: Row) -> dict[str, Any]:
        """The first named value and the first cotangent to part, and what could not be compared."""
        calls = Pair(*(Counter(key.name for key in run.values) for run in self.exact))
        common = [name for name in calls.jax if name in calls.torch]
        alike = {name for name in common if calls.jax[name] == calls.torch[name]}
        notes = [
            f"'{x}' is there {calls.jax[x]} times on jax's side and {calls.torch[x]} on torch's, and not compared."
            for x in common
            if x not in alike
        ]
        first_value = self.first_parting(lambda run: run.values, alike, notes)
        if first_value is None and loss.verdict == "mismatch":
            agreeing = [key for key in self.exact.jax.values if key.name in alike]
            first_value = Parting("loss", (), loss.apart, loss.allowed, str(agreeing[-1]) if agreeing else None)
        elif first_value is not None:
            module = first_value.name.partition(" ")[0]
            leaves = [name for name in self.exact.jax.grads if name.startswith(f"{module}.")]
            first_value = replace(first_value, leaves=tuple(leaves))
        first_cotangent = self.first_parting(lambda run: run.cotangents, alike, notes)
        return dict(first_value=first_value, first_cotangent=first_cotangent, notes=tuple(dict.fromkeys(notes)))

    def first_parting(self, get: Callable[[Run], Any], names: set[str], notes: list[str]) -> Parting | None:
        scale = largest(x for run in self.exact for x in get(run).values())
        before = None
        for key, value in get(self.exact.jax).items():
            if key.name not in names or key not in get(self.exact.torch):
                continue
            other = get(self.exact.torch)[key]
            views = [view for view in VIEWS if view(other).shape == value.shape]
            if not views:
                shapes = f"{value.shape} on jax's side and {other.shape} on torch's"
                notes.append(f"'{key}' is not compared: its shape is {shapes}.")
                continue
            view = min(views, key=lambda view: distance(value, view(other)))
            apart, allowed = self.separation(
                lambda run, key=key: get(run)[key], lambda run, key=key, view=view: view(get(run)[key]), scale
            )
            if not apart <= allowed:
                return Parting(str(key), value.shape, apart, allowed, before)
            before = str(key)
        return None


def gradient(name: str, run: Run) -> np.ndarray:
    return run.grads[name]


def moved(x: np.ndarray, source: int, target: int) -> np.ndarray:
    return np.moveaxis(x, source, target) if x.ndim > 2 else x


#: How torch may have laid out what jax names: alike first, then with channels, batched or not, or the batch elsewhere.
VIEWS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    np.asarray,
    *(partial(moved, source=source, target=target) for source, target in ((1, -1), (0, -1), (0, 1))),
)


def verdict(given: Pair, exact: Pair, apart: float, allowed: float) -> Verdict:
    if not all(np.isfinite(x).all() for x in exact) or not np.isfinite(distance(*given)):
        return "non-finite"
    if apart > allowed:
        return "mismatch"
    return "equal" if given.jax.tobytes() == given.torch.tobytes() else "rounding"


# What a report says besides its numbers.


def hint(ours: np.ndarray, theirs: np.ndarray) -> str:
    """What the difference of two gradients looks like."""
    if not ours.any():
        return "not used on the jax side, or its gradient is stopped there"
    if not theirs.any():
        return "not used on the torch side, or its gradient is stopped there"
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return ""
    ratio = float(np.vdot(theirs, ours) / np.vdot(theirs, theirs))
    if ours.size > 1 and distance(ours, ratio * theirs) < 1e-9 * largest([ours]):
        return f"on the jax side {ratio:.6g} times what it is on the torch side"
    return ""


def remarks(report: ParityReport, evidence: Evidence) -> Iterator[str]:
    """Notes of what the rows do not show, or not why."""
    torch_loss, exact = evidence.sides[1], evidence.exact
    unused = [name for name in exact.torch.unused if not exact.jax.grads[name].any()]
    if unused:
        yield f"Used by neither side, so nothing is known of them: {', '.join(sorted(unused))}."
    jax_error, torch_error = (max(getattr(row, e) for row in report.leaves) for e in ("jax_error", "torch_error"))
    if max(jax_error, torch_error) > UNEVEN * min(jax_error, torch_error) > 0:
        worse = "jax" if jax_error > torch_error else "torch"
        yield f"The {worse} side rounds over {UNEVEN} times as much as the other: its formula is the less stable one."
    if any(row.verdict == "non-finite" for row in report.rows()):
        if all(np.isfinite(x).all() for run in exact for x in (run.loss, *run.grads.values())):
            yield f"In {report.dtype} one side overflows where the other does not."
        else:
            yield (
                "What is not finite even in float64 cannot be compared. fg.find_nonfinite(jax_loss)(params, *batch) "
                "tells where that starts on jax's side, torch.autograd.detect_anomaly on torch's."
            )
    if report.ok:
        return
    wrong = [row for row in report.leaves if not row.ok]
    if report.loss.ok and all(row.verdict == "mismatch" for row in wrong):
        yield (
            "The losses agree, so it is a derivative that differs: a stopped gradient, or another convention at a kink "
            "or a tie (rules=fg.rules.torch takes PyTorch's)."
        )
    if isinstance(torch_loss, ModuleLoss):
        statistics = torch_loss.batch_statistics()
        if statistics:
            yield (
                "In training mode, so by the statistics of the batch instead of those in buffers, normalise: "
                f"{', '.join(statistics)}."
            )
        modules = [name for name, _ in torch_loss.module.named_modules() if name]
        if modules and exact.jax.values.keys().isdisjoint(exact.torch.values):
            names = ", ".join(modules[:8]) + (", ..." if len(modules) > 8 else "")
            yield (
                "To see where the two sides part, name values on jax's side as torch names the module that returns "
                f"them, x = jax.ad_checkpoint.checkpoint_name(x, name): {names}."
            )

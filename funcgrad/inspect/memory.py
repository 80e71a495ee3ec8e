"""``memory``: where the memory of a gradient goes, told from its program. Nothing is run, and nothing compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal, Var
from funcgrad.budgets.costs import flops
from funcgrad.budgets.joint import Joint
from funcgrad.budgets.plan import Plan
from funcgrad.engine.recording import Recording
from funcgrad.inspect.assembly import residual_names
from funcgrad.inspect.memory_report import Budget, KeptValue, MemoryReport, Peak, Wanted
from funcgrad.inspect.steps import Place, type_text
from funcgrad.programs.evaluation import inline_jits
from funcgrad.programs.flow import size, size_of
from funcgrad.rules import RuleTable, table_of
from funcgrad.rules.control.carrier import Carrier, Halves
from funcgrad.rules.control.cond import CondHalves
from funcgrad.rules.rule import bare
from funcgrad.transforms import P, check_input, split_arguments
from funcgrad.units import in_bytes


def memory(
    fun: Callable[P, Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    rules: RuleTable | None = None,
    optimizer: Any = None,
    budgets: Sequence[int | float | str] = (0.5, 0.25),
) -> Callable[P, MemoryReport]:
    """A function that says what the compiled gradient of ``fun`` holds in memory, and what for.

    Args:
      fun: a function as ``funcgrad.grad`` takes it.
      argnums: which positional arguments are differentiated, as for ``funcgrad.grad``.
      has_aux: whether ``fun`` returns a pair of which only the first is differentiated.
      rules: the derivative rules, ``funcgrad.rules.default`` if None.
      optimizer: what has an ``init`` of the differentiated arguments, as optax's optimizers do; its state is counted.
      budgets: amounts of memory as ``funcgrad.checkpoint`` takes them; what each costs is told.

    Returns:
      A function of ``fun``'s arguments that returns a ``MemoryReport``. The arguments may be arrays or
      ``jax.ShapeDtypeStruct``. What is told is a model of what XLA does with the program: an operation on numbers is
      part of the kernel that reads it, and what several read is written once. What XLA needs inside of an operation,
      and where it copies, is not in it.

    Raises:
      TypeError: an argument is not differentiable.

    >>> import jax, jax.numpy as jnp
    >>> def loss(w, x):
    ...     for _ in range(4):
    ...         x = jnp.sin(x @ w)
    ...     return jnp.sum(x)
    >>> report = memory(loss)(jax.ShapeDtypeStruct((64, 64), "float32"), jax.ShapeDtypeStruct((1024, 64), "float32"))
    >>> [(kept.type, [str(rule) for rule in kept.wanted]) for kept in report.kept[:2]]
    [('f32[1024,64]', ['sin: x']), ('f32[1024,64]', ['dot_general: x'])]
    >>> report.parameters, report.kept_bytes
    (16384, 1835008)
    """
    _jax.check_callable(fun)
    argnums = _jax.concrete_or_error(_jax.ensure_index, argnums)
    table = table_of(rules)
    for budget in budgets:
        in_bytes(budget, 1.0)

    @_jax.wraps(fun, docstr="What the gradient of {fun} holds in memory. Takes the arguments of {fun}.")
    @_jax.api_boundary
    def told(*args: Any, **kwargs: Any) -> MemoryReport:
        _, dynamic = split_arguments(fun, argnums, args, kwargs)
        for x in jax.tree.leaves(dynamic):
            is_struct = isinstance(x, jax.ShapeDtypeStruct)
            check_input("memory", np.empty((), x.dtype) if is_struct else x, False, False)
        chosen = [argnums] if isinstance(argnums, int) else [i % len(args) for i in argnums]
        marks = [jax.tree.map(lambda _, is_chosen=i in chosen: is_chosen, x) for i, x in enumerate(args)]
        is_wrt = jax.tree.leaves((marks, jax.tree.map(lambda _: False, kwargs)))
        leaves, tree = jax.tree.flatten((args, kwargs))
        is_input = [wrt or isinstance(x, ARRAYS) for x, wrt in zip(leaves, is_wrt, strict=True)]

        def flat(*given: Any) -> Any:
            rest = iter(given)
            filled = [next(rest) if i else x for x, i in zip(leaves, is_input, strict=True)]
            args, kwargs = jax.tree.unflatten(tree, filled)
            out = fun(*args, **kwargs)
            return out[0] if has_aux else out

        inputs = [x for x, i in zip(leaves, is_input, strict=True) if i]
        program, out = jax.make_jaxpr(flat, return_shape=True)(*inputs)
        program = inline_jits(program, located=True)
        is_active = [wrt for wrt, i in zip(is_wrt, is_input, strict=True) if i]
        params = dynamic[0] if len(dynamic) == 1 else dynamic
        state = None if optimizer is None else jax.eval_shape(optimizer.init, params)
        own = [size_of(aval) for aval in program.in_avals]
        gradients = sum(n for n, active in zip(own, is_active, strict=True) if active)
        return Bill(program, is_active, table).report(
            function=getattr(fun, "__name__", type(fun).__name__),
            parameters=gradients,
            gradients=gradients,
            others=sum(own) - gradients + sum(map(size, program.jaxpr.constvars)),
            results=sum(map(bytes_of, jax.tree.leaves(out))),
            optimizer=None if state is None else sum(map(bytes_of, jax.tree.leaves(state))),
            budgets=budgets,
        )

    return told


#: What is an input of the program; other leaves are what they are.
ARRAYS = jax.Array | np.ndarray | jax.ShapeDtypeStruct


def bytes_of(x: Any) -> int:
    return size_of(jax.core.ShapedArray(x.shape, x.dtype))


class Labels(frozenset[int]):
    """Of which residuals, by number, something is computed."""


class Bill:
    """A program both ways, and what of it is held."""

    def __init__(self, program: ClosedJaxpr, is_active: Sequence[bool], rules: RuleTable):
        self.program, self.is_active = program, is_active
        self.joint = Joint(program, is_active, [True] * len(is_active), rules)
        self.forward = self.joint.forward.jaxpr
        self.maker = {v: eqn for eqn in self.forward.eqns for v in eqn.outvars}

    def report(self, budgets: Sequence[int | float | str], **told: Any) -> MemoryReport:
        held, eqns = self.joint.held, self.joint.eqns
        turn = len(self.forward.eqns)
        values = held.alive(turn - 1)
        kept = sorted(map(self.kept_value(values), values), key=lambda each: -each.bytes)
        at = max(range(len(eqns)), key=held.during.__getitem__, default=None)
        peak = None
        if at is not None:
            still = sum(size(v) for v, (made, last) in held.lives.items() if made < min(at, turn) and at <= last)
            way = "forward" if at < turn else "back"
            part = (at + 1) / turn if at < turn else (at + 1 - turn) / (len(eqns) - turn)
            peak = Peak(held.during[at], still, place_of(eqns[at]), module_of(eqns[at]), operation(eqns[at]), way, part)
        plan = Plan(self.program, is_active=self.is_active)
        work = sum(map(flops, eqns))
        curve = [(point.held, (work + point.again) / work if work else 1.0) for point in plan.curve]
        return MemoryReport(
            kept=kept,
            peak=peak,
            forward_flops=plan.forward_flops,
            curve=curve,
            budgets=[budget_on(curve, asked) for asked in budgets],
            **told,
        )

    def kept_value(self, values: Sequence[Var]) -> Callable[[Var], KeptValue]:
        wanted = self.wanted()

        def described(v: Var) -> KeptValue:
            maker, inner = origin(v, self.maker)
            return KeptValue(
                place=place_of(inner) or place_of(maker),
                module=module_of(maker, inner),
                primitive=operation(inner),
                type=type_text(str(getattr(v.aval, "dtype", "")), getattr(v.aval, "shape", ())),
                bytes=size(v),
                wanted=wanted.get(v, []),
                again=self.again(v, set(values)),
            )

        return described

    def wanted(self) -> dict[Var, list[Wanted]]:
        """The rules that want each value that is held, be it to compute from it what they want."""
        labels = [Labels([i]) for i in range(len(self.joint.residuals))]
        found: list[dict[Wanted, None]] = [{} for _ in labels]
        collect(self.joint.halves.recording(labels, labelled), found)
        wanted: dict[Var, dict[Wanted, None]] = {}
        for v, rules in zip(self.joint.residuals, found, strict=True):
            for held in () if type(v) is Literal else self.joint.held.behind_of(v):
                wanted.setdefault(held, {}).update(rules)
        return {v: list(rules) for v, rules in wanted.items()}

    def again(self, v: Var, kept: set[Var]) -> float:
        """The operations that it takes to compute a value from the inputs and from what else is kept."""
        kept = kept - {v}
        seen: dict[int, Any] = {}
        rest = [v]
        while rest:
            x = rest.pop()
            eqn = self.maker.get(x)
            if eqn is not None and id(eqn) not in seen and self.joint.held.source.get(x, x) not in kept:
                seen[id(eqn)] = eqn
                rest += [y for y in eqn.invars if type(y) is not Literal]
        return sum(map(flops, seen.values()))


def budget_on(curve: Sequence[tuple[int, float]], asked: int | float | str) -> Budget:
    limit = in_bytes(asked, curve[0][0])
    found = next(((held, work) for held, work in curve if held <= limit), None)
    return Budget(asked, limit, None, None) if found is None else Budget(asked, limit, *found)


def labelled(program: ClosedJaxpr, *labels: Labels) -> list[Labels]:
    """Of what the outputs of a program are computed."""
    of: dict[Any, frozenset[int]] = dict(zip(program.jaxpr.invars, labels, strict=True))

    def label(x: Any) -> frozenset[int]:
        return frozenset() if type(x) is Literal else of.get(x, frozenset())

    for eqn in program.jaxpr.eqns:
        reads = frozenset().union(*map(label, eqn.invars))
        of.update(dict.fromkeys(eqn.outvars, reads))
    return [Labels(label(v)) for v in program.jaxpr.outvars]


def collect(recording: Recording, found: Sequence[dict[Wanted, None]]) -> None:
    """The rules of a recording of labels that want what is computed of each residual, by number."""
    for node in recording.nodes:
        parts = [(halves, labels) for halves, labels in parts_of(node) if len(labels) == len(halves.sources)]
        for halves, labels in parts:
            collect(halves.recording(labels, labelled), found)
        if not parts:
            for name, label in zip(residual_names(node), node.residuals, strict=True):
                for i in label if isinstance(label, Labels) else ():
                    found[i][Wanted(str(node.primitive), name)] = None


def parts_of(node: Any) -> list[tuple[Any, Sequence[Labels]]]:
    """The programs inside of a node, and the labels of their residuals; none where these are computed again."""
    halves = node.static[0] if isinstance(node.static, tuple) and node.static else None
    if isinstance(halves, CondHalves):
        return [
            (part, [node.residuals[1 + k] for k in places])
            for part, places in zip(halves.splits, halves.places, strict=True)
        ]
    if not isinstance(halves, Halves):
        return []
    rule = bare(node.rule)
    part, labels = (rule.inside(node), rule.kept(node)) if isinstance(rule, Carrier) else (halves.split, node.residuals)
    return [] if part is None or not all(isinstance(x, Labels) for x in labels) else [(part, labels)]


def origin(v: Var, maker: dict[Any, Any]) -> tuple[Any, Any]:
    """The equation that makes a value, and the one inside of it if it is a loop."""
    eqn = inner = maker[v]
    while inner.primitive is lax.scan_p:
        body = inner.params["jaxpr"].jaxpr
        out = body.outvars[inner.outvars.index(v)]
        made = {w: each for each in body.eqns for w in each.outvars}
        if out not in made:
            break
        v, inner = out, made[out]
    return eqn, inner


def operation(eqn: Any) -> str:
    """What an equation does, by name: of a function with a derivative of its own, the function's."""
    program = eqn.params.get("call_jaxpr")
    name = program.jaxpr.debug_info.func_name if program is not None else None
    return name or str(eqn.primitive)


def place_of(eqn: Any) -> Place | None:
    frames = _jax.user_frames(eqn.source_info)
    return Place(frames[0].file_name, frames[0].start_line, frames[0].function_name) if frames else None


def module_of(*eqns: Any) -> str:
    """The scopes that equations are in, one inside of the other."""
    scopes = dict.fromkeys(str(eqn.source_info.name_stack) for eqn in eqns)
    return "/".join(scope for scope in scopes if scope)

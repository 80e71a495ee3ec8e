"""A forward and backward pass as a program: staged out to a jaxpr, with marks of what is the cotangent of what, and
lifted from there, calls written out and marks resolved."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Jaxpr, Literal, Var, name_p, set_current_trace
from funcgrad.engine.tape import TapeTracer
from funcgrad.engine.zero import Zero
from funcgrad.inspect.source.program import Equation, Path, Program, plain_name, spread
from funcgrad.rules import RuleTable
from funcgrad.rules.rule import Wrapped
from funcgrad.transforms import halves

#: How the marks that this module leaves in a jaxpr begin.
SCOPE, PRIMAL, COTANGENT, BACK = "funcgrad.node.", "funcgrad.primal.", "funcgrad.cotangent.", "funcgrad.back"

_numbers = itertools.count()


def record_marked(rule, tape, primitive, primals, tracers, params, linear):
    """Leave marks: equations of ``name`` on a node's outputs and, on the way back, on their cotangents.

    Both stand in a name scope of the node's own. Scopes of nested programs nest, so the scopes around a mark tell which
    cotangent belongs to which value, in whatever loops and calls the two are.
    """
    with jax.named_scope(f"{SCOPE}{next(_numbers)}"):
        outs = rule.record(tape, primitive, primals, tracers, params, linear)
        with set_current_trace(tape.parent):
            for i, out in enumerate(outs if primitive.multiple_results else [outs]):
                if type(out) is TapeTracer and out._trace is tape and is_array(out.primal):
                    name_p.bind(out.primal, name=f"{PRIMAL}{i}")
    return outs


def pull_marked(rule, node, cts):
    return rule.pullback(
        node, [name_p.bind(ct, name=f"{COTANGENT}{i}") if is_array(ct) else ct for i, ct in enumerate(cts)]
    )


def marking(rules: RuleTable) -> RuleTable:
    """``rules``, leaving marks."""
    return rules.map(lambda rule: Wrapped(rule, record_marked, pull_marked))


def is_array(x: Any) -> bool:
    return x is not None and type(x) is not Zero and isinstance(_jax.typeof(x), jax.core.ShapedArray)


class Staged(NamedTuple):
    """A staged pass: the jaxpr of the array leaves of the arguments, and the tree of what comes out.

    ``static`` has, for each leaf of the arguments, whether it is no array and hence a constant of the program.
    """

    jaxpr: ClosedJaxpr
    static: list[bool]
    out_tree: Any


def stage(
    fun: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], rules: RuleTable, argnums: Any, has_aux: bool
) -> Staged:
    leaves, in_tree = jax.tree.flatten((tuple(args), dict(kwargs)))

    def staged(static: list[bool]) -> Staged:
        def there_and_back(arrays: dict[int, Any]) -> Any:
            args, kwargs = jax.tree.unflatten(in_tree, [arrays.get(i, x) for i, x in enumerate(leaves)])
            value, gradient = halves(fun, argnums, args, kwargs, has_aux, False, False, rules.derived(marking))
            with jax.named_scope(BACK):
                return value, gradient()

        arrays = {i: x for i, x in enumerate(leaves) if not static[i]}
        jaxpr, out_shape = jax.make_jaxpr(there_and_back, return_shape=True)(arrays)
        return Staged(jaxpr, static, jax.tree.structure(out_shape))

    static = [not is_array_like(x) for x in leaves]
    try:
        return staged(static)
    except jax.errors.JAXTypeError:
        # Numbers that the function needs to know, as in an ``if``.
        wanted = {id(x) for i in np.atleast_1d(argnums) for x in jax.tree.leaves(args[i])}
        fixed = [
            s or (isinstance(x, int | float | complex) and id(x) not in wanted)
            for x, s in zip(leaves, static, strict=True)
        ]
        if fixed == static:
            raise
        return staged(fixed)


def is_array_like(x: Any) -> bool:
    try:
        _jax.check_arg(x)
    except TypeError:
        return False
    return True


# Lifting.

#: Equations that stand for the program they carry, the first of their parameters that is one.
WRITTEN_OUT = {
    "jit", "pjit", "closed_call", "core_call", "call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint",
    "eval_jaxpr", "remat_opt", "custom_vmap_call", "composite", "linear_call",
}  # fmt: skip
#: Equations that hand their first operand on.
IDENTITIES = {"copy", "copy_p", "stop_gradient", "stage", "xla_metadata_value", "layout_constraint"}
#: Equations that only show values.
SHOWING = {"debug_callback", "debug_print", "inspect_sharding", "dce_sink"}
#: Functions of fewer equations are written out where they are called.
SMALLEST = 12


def jaxprs_in(value: Any) -> list[ClosedJaxpr]:
    """The jaxprs that a parameter's value is, or has in it."""
    found = [x for x in spread(value) if isinstance(x, ClosedJaxpr | Jaxpr)]
    return [x if isinstance(x, ClosedJaxpr) else _jax.close(x) for x in found]


def expanded(primitive: Any) -> ClosedJaxpr:
    """A hijax primitive in terms of others."""

    def run(*leaves: Any) -> list[Any]:
        return jax.tree.leaves(primitive.expand(*jax.tree.unflatten(primitive.in_tree, leaves)))

    return jax.make_jaxpr(run)(*primitive.in_avals_flat)


class Where(NamedTuple):
    """Where equations are written: into which program, for which frames of the user's, in which marked scopes."""

    into: Program
    frames: tuple[Any, ...] = ()
    path: Path = ()
    backward: bool = False

    def add(
        self, name: str, inputs: list, avals: Iterable, params: dict, primitive: Any = None, has_effects: bool = False
    ) -> list[Any]:
        outputs = list(map(Var, avals))
        eqn = Equation(name, inputs, outputs, params, self.frames, self.backward, primitive, has_effects)
        self.into.equations.append(eqn)
        self.into.inside.setdefault(self.path, []).extend(eqn.programs())
        return list(outputs)

    def partners(self) -> list[Program]:
        return [inner for around in (self.into, *self.into.partners) for inner in around.inside.get(self.path, [])]


class Lifter:
    """Turns jaxprs into programs. A jitted function that is called more than once stays one."""

    def __init__(self, root: ClosedJaxpr):
        self.calls: Counter[Jaxpr] = Counter()
        self.lengths: dict[Jaxpr, int] = {}
        #: Array constants by identity, each with its variable.
        self.constants: dict[int, tuple[Var, Any]] = {}
        self.functions: dict[Jaxpr, Program] = {}
        self.count(root.jaxpr)

    def count(self, jaxpr: Jaxpr) -> int:
        length = 0
        for eqn in jaxpr.eqns:
            length += str(eqn.primitive) not in ("name", "convert_element_type", "broadcast_in_dim", "reshape")
            for inner in (program.jaxpr for program in jaxprs_in(tuple(eqn.params.values()))):
                self.calls[inner] += 1
                if inner not in self.lengths:
                    self.lengths[inner] = self.count(inner)
                length += self.lengths[inner]
        return length

    def lift(
        self, program: ClosedJaxpr, partners: Sequence[Program] = (), given: Sequence[Any] = (), backward: bool = False
    ) -> Program:
        """``program`` as data. The first operands are ``given``: values around it, which it uses as they are."""
        jaxpr = program.jaxpr
        inputs = [Var(v.aval) for v in jaxpr.invars[len(given) :]]
        lifted = Program(plain_name(jaxpr.debug_info.func_name), inputs, partners=list(partners))
        lifted.source = jaxpr.debug_info.func_src_info or ""
        lifted.outputs = self.inline(Where(lifted, backward=backward), program, [*given, *inputs])
        return lifted

    def constant(self, value: Any) -> Any:
        if isinstance(value, Literal):
            return value
        aval = _jax.typeof(value)
        if isinstance(aval, ShapedArray) and not aval.shape and not jnp.issubdtype(aval.dtype, jax.dtypes.extended):
            return Literal(np.asarray(value)[()], aval)
        return self.constants.setdefault(id(value), (Var(aval), value))[0]

    def inline(self, where: Where, program: ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
        """Write a jaxpr's equations down; returns what its outputs are there. ``inputs`` are the last operands."""
        jaxpr = program.jaxpr
        env = dict(zip(jaxpr.constvars, map(self.constant, program.consts), strict=True))
        env.update(zip(jaxpr.invars, inputs[len(inputs) - len(jaxpr.invars) :], strict=True))

        def read(x: Any) -> Any:
            return self.constant(x) if type(x) is Literal else env[x]

        for eqn in jaxpr.eqns:
            scopes = [x.name for x in eqn.source_info.name_stack.stack]
            path = (*where.path, *(name for name in scopes if name.startswith(SCOPE)))
            frames = (*_jax.user_frames(eqn.source_info), *where.frames)
            backward = where.backward or BACK in scopes
            if backward and not path:
                frames = ()  # a loop's own bookkeeping
            outs = self.equation(Where(where.into, frames, path, backward), eqn, list(map(read, eqn.invars)))
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(x) for x in jaxpr.outvars]

    def equation(self, where: Where, eqn: Any, inputs: list) -> list[Any]:
        name = str(eqn.primitive)
        if name == "name":
            mark(where, eqn.params["name"], inputs[0])
            return inputs
        if name in IDENTITIES:
            return inputs[: len(eqn.outvars)]
        if name in SHOWING:
            return []
        if name == "reshard" and is_no_sharding(eqn.params["dst_sharding"]):
            return inputs
        if name == "tie":
            return inputs[1:]
        if name == "call_hi_primitive":
            return self.inline(where, expanded(eqn.params["_prim"]), inputs)
        params = {
            k: None if k in ("sharding", "out_sharding") and is_no_sharding(v) else v for k, v in eqn.params.items()
        }
        if name in WRITTEN_OUT:
            inner = jaxprs_in(tuple(eqn.params.values()))[0]
            length = self.lengths.get(inner.jaxpr, 0)
            if name in ("jit", "pjit") and self.calls[inner.jaxpr] > 1 and length >= SMALLEST:
                return self.call(where, eqn, inner, inputs)
            if name in ("checkpoint", "remat2") and params.get("differentiated") and params["prevent_cse"]:
                inputs = behind_barrier(where, inputs)
            outs = self.inline(where, inner, inputs)
            function = plain_name(params.get("name"))
            is_long = name == "custom_jvp_call" or length > 1
            if function and is_long and not where.backward and not hasattr(lax, function):
                where.into.returned.update({v: function for v in outs[:1] if type(v) is Var})
            return outs
        if name == "scan" and params["length"] == 1:
            return self.only_step(where, params, inputs)
        inputs, params = self.with_programs(where, name, inputs, params)
        return where.add(name, inputs, [v.aval for v in eqn.outvars], params, eqn.primitive, bool(eqn.effects))

    def with_programs(self, where: Where, name: str, inputs: list, params: dict) -> tuple[list, dict]:
        """Operands and parameters with programs in the place of jaxprs.

        Loops and branches use what does not vary straight from around them, and it is no operand any more.
        """

        def lift(program: Any, given: Sequence[Any] = ()) -> Program:
            return self.lift(program, where.partners(), given, where.backward)

        if name == "scan":
            consts, carry = _jax.scan_layout(params)
            body = lift(params["jaxpr"], inputs[:consts])
            body.carry = carry
            kept = {"length": params["length"], "reverse": params["reverse"], "unroll": params["unroll"]}
            return inputs[consts:], {"body": body, "carry": carry, **kept}
        if name == "while":
            first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
            cond = lift(params["cond_jaxpr"], inputs[:first])
            body = lift(params["body_jaxpr"], inputs[first:second])
            return inputs[second:], {"cond": cond, "body": body}
        if name == "cond":
            branches = tuple([lift(branch, inputs[1:]) for branch in params["branches"]])
            return inputs[:1], {"branches": branches}
        if name == "custom_linear_solve":
            programs, rest = [], inputs
            for length, jaxpr in zip(params["const_lengths"], params["jaxprs"], strict=True):
                given, rest = rest[:length], rest[length:]
                programs.append(None if jaxpr is None else lift(jaxpr, given))
            matvec, _, solve, transpose_solve = programs
            return rest, {"programs": (matvec, solve, transpose_solve)}

        def lifted(value: Any) -> Any:
            programs = jaxprs_in(value)
            if not programs:
                return value
            return tuple(map(lifted, value)) if isinstance(value, tuple | list) else lift(programs[0])

        return inputs, {key: lifted(value) for key, value in params.items()}

    def call(self, where: Where, eqn: Any, inner: ClosedJaxpr, inputs: list) -> list[Any]:
        program = self.functions.get(inner.jaxpr)
        if program is None:
            program = self.functions[inner.jaxpr] = self.lift(inner, where.partners(), (), where.backward)
            program.name = plain_name(eqn.params["name"]) + ("_backward" if where.backward else "")
        avals = [v.aval for v in eqn.outvars]
        return where.add("call", inputs, avals, {"program": program}, has_effects=bool(eqn.effects))

    def only_step(self, where: Where, params: dict, inputs: list) -> list[Any]:
        """A loop of one step as that step."""
        consts, carry = _jax.scan_layout(params)
        body = params["jaxpr"]
        given = inputs[: consts + carry]
        for x, aval in zip(inputs[consts + carry :], body.in_avals[consts + carry :], strict=True):
            given += where.add("squeeze", [x], [aval], {"dimensions": (0,)})
        outs = self.inline(where, body, given)
        for i, aval in enumerate(body.out_avals[carry:], carry):
            (outs[i],) = where.add("expand_dims", [outs[i]], [_jax.stacked_aval(1, aval)], {"axes": (0,)})
        return outs


def behind_barrier(where: Where, inputs: list) -> list[Any]:
    """Values through a barrier, which keeps what is computed from them from being shared with the way forward."""
    values = [x for x in inputs if type(x) is Var]
    if not values:
        return inputs
    avals = [v.aval for v in values]
    outputs = where.add("optimization_barrier", values, avals, {}, lax.optimization_barrier_p)
    fresh = dict(zip(values, outputs, strict=True))
    return [fresh.get(x, x) if type(x) is Var else x for x in inputs]


def mark(where: Where, name: str, value: Any) -> None:
    if name.startswith(PRIMAL):
        where.into.primals.setdefault((where.path, name.removeprefix(PRIMAL)), value)
    elif name.startswith(COTANGENT):
        where.into.cotangents.setdefault((where.path, name.removeprefix(COTANGENT)), value)
    elif type(value) is Var:
        where.into.names.setdefault(value, name)


def is_no_sharding(value: Any) -> bool:
    return isinstance(value, jax.sharding.NamedSharding) and value.mesh.empty

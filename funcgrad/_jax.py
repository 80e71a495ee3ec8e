"""The seam: every name of JAX's that is not public is imported here and nowhere else.

A new JAX release means reading this one file. Names are re-exported unchanged where their shape has been steady, and
wrapped in a small function where it has not.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import operator
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax._src import (
    ad_checkpoint,
    ad_util,
    api,
    api_util,
    array,
    callback,
    checkify,
    config,
    core,
    custom_batching,
    custom_derivatives,
    debugging,
    dispatch,
    dtypes,
    effects,
    hijax,
    literals,
    pjit,
    shard_map,
    sharding_impls,
    source_info_util,
    traceback_util,
    tree_util,
    xla_metadata,
)
from jax._src import linear_util as lu
from jax._src.interpreters import ad, batching
from jax._src.interpreters import partial_eval as pe
from jax._src.lax import eval_jaxpr as lax_eval_jaxpr
from jax._src.lax import lax as lax_internal
from jax._src.lax import parallel
from jax._src.mesh import use_abstract_mesh
from jax._src.numpy import reductions as numpy_reductions
from jax._src.random import core as random_core
from jax._src.random import prng
from jax._src.random import threefry2x32 as threefry
from jax._src.state import discharge
from jax._src.state import primitives as state_primitives
from jax._src.state.types import AbstractRef, ReadEffect, RefEffect
from jax._src.traceback_util import api_boundary
from jax._src.util import weakref_lru_cache, wraps

if TYPE_CHECKING:
    from jax.extend.core import (
        ClosedJaxpr,
        Jaxpr,
        Literal,
        Primitive,
        Var,
        new_jaxpr_eqn,
        set_current_trace,
        take_current_trace,
    )
else:
    # What jax.extend.core offers. Importing it imports all of jax.extend, which takes longer than funcgrad does.
    Jaxpr, Literal, Primitive, Var = core.Jaxpr, core.Literal, core.Primitive, core.Var
    ClosedJaxpr = getattr(core, "ClosedJaxpr", Jaxpr)  # one class since jax 0.12
    new_jaxpr_eqn = core.new_jaxpr_eqn
    set_current_trace, take_current_trace = core.set_current_trace, core.take_current_trace

jit_p = pjit.jit_p
name_p, remat_p = ad_checkpoint.name_p, ad_checkpoint.remat_p
add_jaxvals_p = ad.add_jaxvals_p
device_put_p = dispatch.device_put_p
random_bits_p, random_fold_in_p = prng.random_bits_p, prng.random_fold_in_p
random_seed_p, random_split_p = prng.random_seed_p, prng.random_split_p
random_gamma_p, threefry2x32_p = random_core.random_gamma_p, threefry.threefry2x32_p

# None before the release that has them.
log2_p: Any = getattr(lax_internal, "log2_p", None)
one_minus_square_p: Any = getattr(lax_internal, "one_minus_square_p", None)
polynomial_p: Any = getattr(lax_internal, "polynomial_p", None)
#: Whether the cotangent of what ``cholesky`` factorizes is lower triangular too.
CHOLESKY_IS_OF_LOWER = jax.__version_info__ >= (0, 11)
pbroadcast_dynamic_p: Any = getattr(parallel, "pbroadcast_dynamic_p", None)

flattree: Any
try:
    flattree = importlib.import_module("jax._src.flattree")
except ImportError:  # before jax 0.11
    flattree = tree_util.FlatTree

eval_trace = core.eval_trace
eval_jaxpr = core.eval_jaxpr
get_referent = core.get_referent
to_concrete_value = core.to_concrete_value


def typeof(x: Any) -> Any:
    """The type of a value. That of an array on one device needs no working out, and is asked for often."""
    if on_one_device(x):
        return x.aval
    return core.typeof(x)


def runs_eagerly(values) -> bool:
    """Whether operations on ``values``, here and now, are run one by one on the arrays of one device."""
    return core.trace_ctx.trace is core.eval_trace and may_compile() and all(on_one_device(x) for x in values)


def may_compile() -> bool:
    """Whether nobody has asked for operations to be run one by one."""
    return not (config.disable_jit.value or config.debug_nans.value)


def is_local(x: Any) -> bool:
    """Whether a value is an array on one device, or one that is on none yet."""
    return on_one_device(x) or isinstance(x, np.ndarray)


def on_one_device(x: Any) -> bool:
    return type(x) is array.ArrayImpl and type(x.sharding) is sharding_impls.SingleDeviceSharding


typecompat = core.typecompat
cur_qdd: Any = getattr(core, "cur_qdd", None)  # gone in jax 0.12
check_arg = dispatch.check_arg
canonicalize_value = dtypes.canonicalize_value
concrete_or_error = core.concrete_or_error
extended = dtypes.extended
current_source = source_info_util.current
user_context = source_info_util.user_context
NameStack = source_info_util.NameStack
foreign_jvps = ad.primitive_jvps
foreign_transposes = ad.primitive_transposes
#: Those that add to accumulators what the others return.
foreign_accumulations = ad.fancy_transposes
JaxZero = ad_util.Zero
UndefinedPrimal = ad.UndefinedPrimal
debug_info = api_util.debug_info
argnums_partial = api_util.argnums_partial2
ensure_index = api_util._ensure_index
check_callable = api_util.check_callable
add_jaxvals = ad_util.add_jaxvals
auto_insert_reshard = core.auto_insert_reshard


# In errors, profiles and reports the line that counts is the user's, so the package's own frames are passed over.
traceback_util.register_exclusion(os.path.dirname(__file__))
source_info_util.register_exclusion(os.path.dirname(__file__))


def is_tracer(x: Any) -> bool:
    return isinstance(x, core.Tracer)


def canonicalize(x: Any) -> Any:
    """A user's value as JAX holds it: Python scalars get a dtype."""
    return x if isinstance(x, jax.Array) else canonicalize_value(x)


def zeros(aval) -> Any:
    """Zeros of a cotangent's type, replication and sharding included."""
    mesh = getattr(getattr(aval, "sharding", None), "mesh", None)
    if mesh is None:
        return ad_util.zeros_like_aval(aval)
    with use_abstract_mesh(mesh):
        return ad_util.zeros_like_aval(aval)


def trace_to_jaxpr(fun: Callable[..., Sequence[Any]], in_avals: Sequence[Any], info) -> ClosedJaxpr:
    """Stage ``fun`` of flat arguments out to a closed jaxpr. ``info`` is the ``DebugInfo`` it is to carry."""
    wrapped = lu.wrap_init(fun, debug_info=info.with_unknown_names())
    jaxpr, _, consts = pe.trace_to_jaxpr_dynamic(wrapped, list(in_avals))
    return ClosedJaxpr(jaxpr, consts)


def unnamed(program: ClosedJaxpr) -> Any:
    """The debug information of a program, for one with other inputs and outputs."""
    return program.jaxpr.debug_info.with_unknown_names()


def user_line(source) -> str:
    """``file:line (function)`` of the user's innermost frame in a source info."""
    return source_info_util.summarize(source)


def user_frames(source) -> list[Any]:
    """The user's frames of a source info, innermost first: file, qualified function name, lines and columns."""
    return list(source_info_util.user_frames(source.traceback))


def one_like(x) -> jax.Array:
    """The seed of a backward pass: one, of ``x``'s type, weak type and sharding."""
    return lax_internal._one_vjp(x)


def is_differentiable_dtype(dtype) -> bool:
    return dtype is not None and dtype != dtypes.float0


_nothing = contextlib.nullcontext()


def scope_depth() -> int:
    """How deep the stack of name scopes is here."""
    return len(source_info_util.current_name_stack())


class BackwardScopes:
    """Contexts in which backward operations carry the line and name scope of their forward operation.

    The scope is marked: what ran forward under ``block`` runs back under ``backward(block)``. ``depth`` is how many
    scopes there were around the function, None if the scopes inside of it are to be left as they are.
    """

    def __init__(self, depth: int | None):
        scope = source_info_util.current_name_stack()
        self.depth = depth or 0
        self.base = scope if depth is None else scope.transform("backward")
        self.last: tuple[Any, Any] = (None, self.base)

    def of(self, source) -> Any:
        if source is None:
            return _nothing
        stack = source.name_stack
        if stack is not self.last[0]:
            self.last = (stack, self.base + stack[self.depth :])
        return user_context(source.traceback, name_stack=self.last[1])


def add_cotangents(x, y):
    return add_arrays(x, y) if runs_eagerly((x, y)) else ad_util.add_jaxvals(x, y)


add_arrays = jax.jit(lax_internal.add)


def explicit_sharding(aval):
    """The sharding a value must be given where shardings are part of types, else None."""
    sharding = aval.sharding
    return None if sharding is None or sharding.mesh.empty or sharding.mesh.are_all_axes_auto else sharding


def is_symbolic_zero(x) -> bool:
    return isinstance(x, ad_util.Zero)


def cotangent_fits(got, expected) -> bool:
    """Whether a cotangent of type ``got`` may stand where ``expected`` is asked for, as ``jax.vjp`` decides it."""
    return core.typecompat(got, expected) or api._temporary_dtype_exception(got, expected)


def standard_basis(tree):
    """One-hot cotangents for every entry of ``tree``, stacked along a leading axis."""
    return api._std_basis(tree)


def unravel_rows(out_tree, example, rows):
    """Split the leading axis of ``rows`` into the leaves of ``out_tree``."""
    return api._jacrev_unravel(out_tree, example, rows)


UNSPECIFIED = sharding_impls.UNSPECIFIED


def jit_inlines(params) -> bool:
    """Whether a jit equation is to be written out, and asks for no shardings or layouts that would be lost by it."""
    inline = params["inline"]
    # A flag, and since jax 0.11 one of several ways.
    if not (inline if isinstance(inline, bool) else inline.name.startswith("JAX")):
        return False
    for sharding in (*params["in_shardings"], *params["out_shardings"]):
        if sharding is not UNSPECIFIED:
            return False
    return not any(params["in_layouts"]) and not any(params["out_layouts"])


def write_out(trace, program, args: Sequence[Any], params) -> list[Any]:
    """The outputs of a program whose equations ``trace`` is given, in the place of one jit equation with ``params``."""
    if type(trace) is pe.DynamicJaxprTrace:
        # What ``jit_p`` does there, which takes twice as long to find that out.
        source = source_info_util.current()
        tracers = [trace.to_jaxpr_tracer(x, source) for x in args]
        return pe.inline_jaxpr_into_trace(trace, source, program.jaxpr, program.consts, *tracers)
    ins, outs = len(program.in_avals), len(program.out_avals)
    changed = {
        "jaxpr": program,
        "in_shardings": (UNSPECIFIED,) * ins,
        "out_shardings": (UNSPECIFIED,) * outs,
        "in_layouts": (None,) * ins,
        "out_layouts": (None,) * outs,
        "donated_invars": (False,) * ins,
    }
    with set_current_trace(trace):
        return jit_p.bind(*args, **{**params, **changed})


def current_trace():
    return core.trace_ctx.trace


def register_tracer(tracer_type: type) -> None:
    """Spare JAX from finding out, each time it meets one, that a tracer of this type is a tracer."""
    core.pytype_aval_mappings[tracer_type] = operator.attrgetter("aval")
    dtypes.canonicalize_value_handlers[tracer_type] = lambda x: x


ragged_dot_general_p = lax_internal.ragged_dot_general_p
random_wrap_p = prng.random_wrap_p
random_unwrap_p = prng.random_unwrap_p


def permuted_sharding(aval, order):
    """The sharding of ``aval`` with its dimensions taken in ``order``, where shardings are part of types."""
    sharding = explicit_sharding(aval)
    if sharding is None:
        return None
    return sharding.update(spec=sharding.spec.update(partitions=tuple(sharding.spec.partitions[d] for d in order)))


def equation_context(eqn, with_source: bool, inlined: bool) -> Any:
    """The context that an equation is to run in: its line and scope, and the settings it was traced under."""
    same_settings = eqn.ctx is core.current_jaxpr_eqn_context()
    if same_settings and not with_source:
        return _nothing
    info = eqn.source_info
    if inlined and same_settings and not info.name_stack.stack:
        return _nothing
    scope = source_info_util.current_name_stack() + info.name_stack
    source = user_context(None if inlined else info.traceback, name_stack=scope)
    if same_settings:
        return source
    both = contextlib.ExitStack()
    both.enter_context(source)
    both.enter_context(eqn.ctx.manager)
    return both


@functools.cache
def is_plain(primitive) -> bool:
    """Whether binding a primitive to a trace is no more than handing it to the trace."""
    return type(primitive) is core.Primitive and not {"bind_with_trace", "is_high"} & vars(primitive).keys()


DropVar = core.DropVar
no_effects = core.no_effects


def scan_layout(params) -> tuple[int, int]:
    """How many constants and how many carries a scan has."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


@functools.cache
def empty_scan() -> dict[str, Any]:
    """The parameters of some scan."""
    (equation,) = jax.make_jaxpr(lambda: jax.lax.scan(lambda c, _: (c, None), 0.0, None, length=1))().eqns
    return equation.params


def scan_params(params, body, num_consts: int, num_carry: int) -> dict[str, Any]:
    """The parameters of a scan with another body, of so many constants and carries."""
    new = {**params, "jaxpr": body}
    if "num_consts" in params:
        new |= {"num_consts": num_consts, "num_carry": num_carry}
        if "linear" in params:
            new["linear"] = (False,) * len(body.in_avals)
        return new
    num_elements, num_outs = len(body.in_avals) - num_consts - num_carry, len(body.out_avals) - num_carry
    consts, carry, elements, outs = (
        flattree.flatten_list([None] * n) for n in (num_consts, num_carry, num_elements, num_outs)
    )
    return new | {"ft_in": flattree.pack((consts, carry, elements)), "ft_out": flattree.pack((carry, outs))}


def stacked_aval(length: int, aval):
    """The type of ``length`` values stacked along a new first axis."""
    return core.unmapped_aval(length, 0, aval)


def typed_scalar(x: Any) -> Any:
    """A Python scalar, which has no shape, as an array of its type."""
    aval = core.typeof(x)
    return literals.TypedNdArray(np.asarray(x, aval.dtype), aval=aval)


def weak_scalar(x: np.ndarray) -> Any:
    return literals.TypedNdArray(x, aval=core.ShapedArray((), x.dtype, weak_type=True))


def match(ct, aval):
    """A cotangent in the dtype and replication of ``aval``, as a loop's carry must be."""
    got = typeof(ct)
    if core.typematch(got, aval) and got.weak_type == aval.weak_type:
        return ct
    if got.dtype != aval.dtype or got.weak_type != aval.weak_type:
        ct = lax_internal._convert_element_type(ct, aval.dtype, aval.weak_type)
    return ct


Offloadable = pe.Offloadable


def policy_decision(policy, eqn) -> Any:
    """What a checkpoint policy says of an equation's outputs; None for: compute them again."""
    decision = pe.ensure_enum(policy(eqn.primitive, *[x.aval for x in eqn.invars], **eqn.params))
    return None if decision is pe.Recompute else decision


def transfers(decision):
    """The ways to the memory that a value is offloaded to, and back."""
    there, back = (core.mem_kind_to_space(kind) for kind in (decision.dst, decision.src))
    return (lambda x: jax.device_put(x, there)), (lambda x: jax.device_put(x, back))


def close(jaxpr):
    """A closed jaxpr of a jaxpr without constants."""
    return ClosedJaxpr(jaxpr, ())


def opened(program):
    """A jaxpr that takes the constants of a closed one as its first inputs."""
    return pe.convert_constvars_jaxpr(program.jaxpr)


def without_dead_code(program):
    jaxpr, _ = pe.dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars), instantiate=True)
    return program.replace(jaxpr=jaxpr)


current_scope = source_info_util.current_name_stack


@contextlib.contextmanager
def context_of(eqn, scope):
    """The line and settings of an equation, and the scope it has inside of ``scope``."""
    with user_context(eqn.source_info.traceback, name_stack=scope + eqn.source_info.name_stack), eqn.ctx.manager:
        yield


def rebind(eqn, values: Sequence[Any], scope, **changed: Any) -> list[Any]:
    """The outputs of an equation for other operands, and other parameters where given."""
    with context_of(eqn, scope):
        outs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params({**eqn.params, **changed}))
    return list(outs) if eqn.primitive.multiple_results else [outs]


def is_unsharded(aval) -> bool:
    mesh = getattr(getattr(aval, "sharding", None), "mesh", None)
    return isinstance(aval, core.ShapedArray) and (mesh is None or mesh.empty)


def eval_inlining(program, primitive, args) -> list[Any]:
    """Evaluate ``program`` with the calls of ``primitive`` in it, at any depth of such calls, spelled out."""
    env = dict(zip((*program.jaxpr.constvars, *program.jaxpr.invars), (*program.consts, *args), strict=True))
    scope = current_scope()
    for eqn in program.jaxpr.eqns:
        values = [x.val if type(x) is core.Literal else env[x] for x in eqn.invars]
        if eqn.primitive is primitive:
            with context_of(eqn, scope):
                outs = eval_inlining(eqn.params["jaxpr"], primitive, values)
        else:
            outs = rebind(eqn, values, scope)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [x.val if type(x) is core.Literal else env[x] for x in program.jaxpr.outvars]


# Primitives that JAX does not list as public.

tie_p = lax_internal.tie_p
stage_p = core.stage_p
to_edtype_p = lax_internal.to_edtype_p
from_edtype_p = lax_internal.from_edtype_p
xla_metadata_value_p = xla_metadata.xla_metadata_value_p
eval_jaxpr_p = lax_eval_jaxpr.eval_jaxpr_p
remat_opt_p = custom_derivatives.remat_opt_p
custom_jvp_call_p, custom_vjp_call_p = custom_derivatives.custom_jvp_call_p, custom_derivatives.custom_vjp_call_p
custom_vmap_p = custom_batching.custom_vmap_p
linear_call_p = custom_derivatives.linear_call_p
pure_callback_p = callback.pure_callback_p
io_callback_p = callback.io_callback_p
composite_p = lax_internal.composite_p
debug_callback_p = debugging.debug_callback_p
debug_print_p = debugging.debug_print_p
inspect_sharding_p = debugging.inspect_sharding_p
check_p = checkify.check_p
call_hi_primitive_p = hijax.call_hi_primitive_p

broadcast_prefix = tree_util.broadcast_prefix


def accumulator(aval, wanted: bool):
    """What a hijax primitive's ``vjp_bwd`` adds a cotangent to."""
    return ad.ValAccum(aval) if wanted else ad.NullAccum(aval)


#: A tracer that JAX takes for one under differentiation, for where it looks inside tracers to tell.
_perturbed_trace = pe.DynamicJaxprTrace(None)
PERTURBED = pe.DynamicJaxprTracer(
    _perturbed_trace,
    core.ShapedArray((), dtypes.dtype(1.0)),
    core.Var(core.ShapedArray((), dtypes.dtype(1.0))),
)


NotNeeded, DontWant = api.NotNeeded, api.DontWant


def deliver(ct, target, replace: bool) -> Any:
    """Give a cotangent to what asked for it; returns what stands in its place."""
    if isinstance(target, DontWant | ad.NullAccum):
        return api.DidntWant()
    if isinstance(target, ad.GradAccum):
        target.accum(ct)
    elif not is_ref_value(target):
        return ct
    elif replace:
        target[...] = ct
    else:
        target.addupdate(ct)
    return api.GradRef()


# Collectives and shard_map.

shard_map_p = shard_map.shard_map_p
psum_invariant_p = parallel.psum_invariant_p
pbroadcast_p = parallel.pbroadcast_p
reduce_scatter_p = parallel.reduce_scatter_p
ragged_all_to_all_p = parallel.ragged_all_to_all_p
all_gather_invariant_p = parallel.all_gather_invariant_p
all_gather_reduced_p = parallel.all_gather_reduced_p
unreduced_reduce_scatter_p = parallel.unreduced_reduce_scatter_p
unreduced_psum_p = parallel.unreduced_psum_p
preduced_p = parallel.preduced_p
vary_unreduced_cast_p = parallel.vary_unreduced_cast_p
reduced_vary_cast_p = core.reduced_vary_cast_p
pvary_p = core.pvary_p
pvary = core.pvary
all_gather_reduced = parallel.all_gather_reduced
unreduced_psum_scatter = parallel.unreduced_psum_scatter
preduced = parallel.preduced
unreduced_psum = parallel.unreduced_psum
reduced_vary_cast = core.reduced_vary_cast
vary_unreduced_cast = parallel.vary_unreduced_cast
replicated_spec = shard_map._repspec


def flat_tree(*groups):
    """JAX's flat tree of lists of values, each a list or a flat tree already."""
    trees = tuple([flattree.flatten_list(g) if isinstance(g, list) else g for g in groups])
    return trees[0] if len(trees) == 1 else flattree.pack(trees)


def manual_names(mesh, manual_axes) -> tuple[Any, ...]:
    """The axes that a ``shard_map``, entered here, makes manual."""
    return shard_map._all_newly_manual_mesh_names(mesh, manual_axes)


def device_varying_spec(aval, mesh, check_vma: bool, names: tuple[str, ...]):
    """The layout of a value of which nothing is known but that it may differ on every device along ``names``."""
    return aval.nospec(mesh, check_vma, names)


def unmentioned(mesh, spec, manual_axes) -> tuple[Any, ...]:
    """The manual axes that a layout does not name: those along which a value is the same on every device."""
    return tuple(shard_map._unmentioned2(mesh, spec, manual_axes))


foreign_linearizations = ad.primitive_linearizations


def program_effects(constvars, invars, outvars, eqns) -> Any:
    """The effects that a jaxpr of these equations has."""
    return pe.make_jaxpr_effects(constvars, invars, outvars, eqns)


def is_for_debugging(eqn) -> bool:
    """Whether an equation has effects, and none but to show values."""
    kinds = debugging.DebugEffect | debugging.OrderedDebugEffect
    return bool(eqn.effects) and all(isinstance(e, kinds) for e in eqn.effects)


def effects_refused_by_remat(found) -> Any:
    return effects.remat_allowed_effects.filter_not_in(found)


ArrayCopySemantics = dispatch.ArrayCopySemantics
reshard_p = pjit.reshard_p
layout_constraint_p = pjit.layout_constraint_p


def host_of(aval):
    """Host memory for a value of that type that lives there, else None: wherever values live by default."""
    return aval.memory_space if aval.memory_space == core.MemorySpace.Host else None


# References.

ref_p = core.ref_p
empty_ref_p = core.empty_ref_p
freeze_p = core.freeze_p
free_ref_p = core.free_ref_p
accum_grad_in_ref_p = core.accum_grad_in_ref_p
get_p = state_primitives.get_p
swap_p = state_primitives.swap_p
addupdate_p = state_primitives.addupdate_p


def is_ref(aval) -> bool:
    return isinstance(aval, AbstractRef)


def is_ref_value(x: Any) -> bool:
    return isinstance(x, core.Ref)


def ct_type(aval):
    """The type of a value's cotangent; for a reference, of the cotangent of its content."""
    return aval.inner_aval.to_ct_aval() if is_ref(aval) else aval.to_ct_aval()


def ref_uses(program) -> tuple[set[int], set[int]]:
    """The numbers of a program's inputs that are references it uses, and of those that it writes or adds to."""
    found = [e for e in core.positional_effects(program) if isinstance(e, RefEffect)]
    return {e.input for e in found}, {e.input for e in found if not isinstance(e, ReadEffect)}


def bind_discharged(primitive, chosen: Sequence[bool], values: Sequence[Any], params) -> tuple[Sequence[Any], Any]:
    """Bind ``primitive`` with the contents of references in the place of those chosen: last contents, outputs."""
    avals = [AbstractRef(core.typeof(x)) if c else core.typeof(x) for x, c in zip(values, chosen, strict=True)]
    if hasattr(discharge, "DischargeContext"):  # since jax 0.11
        context = discharge.DischargeContext(avals, [], list(chosen), False)
        return discharge._discharge_rules[primitive](context, *values, **params)
    return discharge._partial_discharge_rules[primitive](chosen, avals, [], *values, **params)


def never_differentiated(aval) -> bool:
    """Whether a type is that of a reference that derivatives are not to flow through."""
    return getattr(aval, "kind", None) == "no_grad_no_remat"


def indices_of(tree, leaves) -> tuple[Any, ...]:
    """The views, one after the other, of an operation on part of a reference."""
    return jax.tree.unflatten(tree, leaves)


def read_at(x, tree, leaves):
    """``x[index]``, where ``x`` is what a reference holds."""
    return discharge.transform_array(x, indices_of(tree, leaves))


def replace_at(x, y, tree, leaves) -> tuple[Any, Any]:
    """``x[index]``, and ``x`` with ``y`` there."""
    return discharge.transform_swap_array(x, indices_of(tree, leaves), y)


def add_at(x, y, tree, leaves):
    """``x`` with ``y`` added to ``x[index]``."""
    return discharge._addupdate_discharge(x, y, leaves, tree)


InternalFloatingPointError = api_util.InternalFloatingPointError
raise_no_nan_in_deoptimized = api_util._raise_no_nan_in_deoptimized

#: Gone from jax 0.12.
dce_sink_p = getattr(lax_internal, "dce_sink_p", None)


def call_bwd(bwd, *args) -> Sequence[Any]:
    """Call the backward rule of a ``custom_vjp`` function: a cotangent for each argument of the function."""
    results = bwd.call_wrapped(*args)
    # Since jax 0.12 they come with logs.
    return results[0] if hasattr(ad, "CustomBwdWithAccums") else results


# Jitted functions, as a rule table recognises them.

JittedFunction = type(jax.jit(lambda: None))


def jitted(function: Any) -> Any:
    """The jitted function that ``function`` is, or is a ``custom_jvp`` or ``custom_vjp`` form of; else None."""
    if isinstance(function, jax.custom_jvp | jax.custom_vjp):
        function = getattr(function, "__wrapped__", None)
    return function if isinstance(function, JittedFunction) else None


def inlines_early(function) -> bool:
    """Whether a jitted function is written out where it is called inside another."""
    inline = function._jit_info.inline
    return inline if isinstance(inline, bool) else inline.name == "JAX_EARLY"


def static_names(function) -> frozenset[str]:
    return frozenset(function._jit_info.static_argnames)


def source_of(function) -> str:
    """The name and place of a function, as its programs have them in ``debug_info.func_src_info``."""
    return api_util.fun_sourceinfo(function)


def is_own_program(program) -> bool:
    """Whether a jitted function's program was traced from the function, and not made of such a program by batching."""
    return program.jaxpr.debug_info.result_paths is not None


#: What ``jnp.std`` jits.
std = numpy_reductions._std


class Batching(NamedTuple):
    """How a program was batched: the axis, and where it is in each input and output, None where it is not."""

    size: int
    name: Any
    spmd_name: Any
    in_axes: Sequence[int | None]
    out_axes: Sequence[int | None]


@weakref_lru_cache
def batching_of(program) -> tuple[ClosedJaxpr, Batching] | None:
    """The program that ``program`` is the batched form of, and how; None where that is not known any more.

    JAX does not say, but it keeps what it has batched, to do so once.
    """
    for ref, _, (axis, in_axes), _ in batching._batch_jaxpr2.cache_keys():
        single = ref()
        if single is None or single.jaxpr.debug_info.func_src_info != program.jaxpr.debug_info.func_src_info:
            continue
        batched, out_axes = batching._batch_jaxpr2(single, axis, in_axes)
        if batched is program or (batched.in_avals == program.in_avals and str(batched) == str(program)):
            return single, Batching(axis.size, axis.name, axis.spmd_name, in_axes, out_axes)
    return None

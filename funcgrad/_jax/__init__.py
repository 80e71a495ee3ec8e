"""The seam: what comes from `jax._src` comes through here and from nowhere else.

``names`` has what JAX keeps private, ``compat`` what differs between its releases; the rest is made of these.
"""

# Public in JAX.
from jax.ad_checkpoint import Offloadable
from jax.core import eval_jaxpr
from jax.custom_derivatives import custom_jvp_call_p, custom_vjp_call_p, remat_opt_p
from jax.dtypes import extended
from jax.interpreters.ad import UndefinedPrimal, add_jaxvals_p
from jax.interpreters.ad import Zero as JaxZero
from jax.interpreters.ad import primitive_jvps as foreign_jvps
from jax.interpreters.ad import primitive_transposes as foreign_transposes
from jax.lax import device_put_p, ragged_all_to_all_p, stage_p
from jax.sharding import use_abstract_mesh

from funcgrad._jax.calls import JittedFunction, batching_of, is_own_program, jitted, jitted_inside, source_of
from funcgrad._jax.calls import static_names
from funcgrad._jax.calls import traced_under
from funcgrad._jax.compat import CHOLESKY_IS_OF_LOWER, ClosedJaxpr, bind_discharged, call_bwd, cur_qdd, flat_tree
from funcgrad._jax.compat import empty_scan, in_types, inlines_early, jit_inlines, scan_layout, scan_params, types_of
from funcgrad._jax.compat import goes_by_jvp, way_forward
from funcgrad._jax.compat import log2_p, one_minus_square_p, pbroadcast_dynamic_p, polynomial_p
from funcgrad._jax.cotangents import PERTURBED, UNWANTED, accumulator, deliver, factor_of, is_symbolic_zero, laid_out
from funcgrad._jax.cotangents import is_reduced, is_unreduced, match, reshard
from funcgrad._jax.dimensions import evaluated, is_at_least
from funcgrad._jax.equations import behave_like, close, effects_refused_by_remat, effects_to_happen_once
from funcgrad._jax.equations import is_for_debugging, is_plain, is_ref_effect, opened, policy_decision, rebind, ref_uses
from funcgrad._jax.equations import run_here, trace_to_jaxpr, transfers, unnamed, with_parts, without_dead_code
from funcgrad._jax.equations import write_out, zeros
from funcgrad._jax.names import all_gather_reduced, api_boundary, argnums_partial, ArrayCopySemantics
from funcgrad._jax.names import auto_insert_reshard, broadcast_prefix, check_arg, check_callable, concrete_or_error
from funcgrad._jax.names import current_scope, current_source, DropVar, dtypes, ensure_index, eval_trace
from funcgrad._jax.names import foreign_accumulations, foreign_linearizations, get_referent, InternalFloatingPointError
from funcgrad._jax.names import batch_program, fun_sourceinfo, physical_aval
from funcgrad._jax.names import Jaxpr, Literal, manual_names, new_jaxpr_eqn, no_effects, NotNeeded, one_like, preduced
from funcgrad._jax.names import Primitive, program_effects, pvary, raise_no_nan_in_deoptimized, reduced_vary_cast
from funcgrad._jax.names import piecewise, replicated_spec, set_current_trace, standard_basis, std, take_current_trace
from funcgrad._jax.names import ArrayImpl, logaddexp, logaddexp2, pinv, TypedNdArray
from funcgrad._jax.names import to_concrete_value, unravel_rows, unreduced_psum, unreduced_psum_scatter, UNSPECIFIED
from funcgrad._jax.names import user_line, Var, vary_unreduced_cast, weakref_lru_cache, wraps
from funcgrad._jax.names import accum_grad_in_ref_p, addupdate_p, all_gather_invariant_p, all_gather_reduced_p
from funcgrad._jax.names import call_hi_primitive_p, check_p, composite_p, custom_vmap_p, dce_sink_p, debug_callback_p
from funcgrad._jax.names import (
    debug_print_p,
    empty_ref_p,
    eval_jaxpr_p,
    free_ref_p,
    freeze_p,
    from_edtype_p,
    geqrf_p,
    get_p,
)
from funcgrad._jax.names import inspect_sharding_p, io_callback_p, jit_p, layout_constraint_p, linear_call_p, name_p
from funcgrad._jax.names import pbroadcast_p, preduced_p, psum_invariant_p, pure_callback_p, pvary_p
from funcgrad._jax.names import ragged_dot_general_p, random_bits_p, random_fold_in_p, random_seed_p, random_split_p
from funcgrad._jax.names import random_unwrap_p, random_wrap_p, reduce_scatter_p, reduced_vary_cast_p, ref_p, remat_p
from funcgrad._jax.names import reshard_p, shard_map_p, swap_p, threefry2x32_p, tie_p, to_edtype_p, unreduced_psum_p
from funcgrad._jax.names import unreduced_reduce_scatter_p, vary_unreduced_cast_p, xla_metadata_value_p
from funcgrad._jax.types import add_at, indices_of, is_ref_value, never_differentiated, read_at, replace_at
from funcgrad._jax.scopes import BackwardScopes, context_of, current_settings, equation_context, scope_depth
from funcgrad._jax.scopes import looks_for_nans, user_frames
from funcgrad._jax.types import NO_MESH, cotangent_fits, ct_sharding, ct_type, device_varying_spec
from funcgrad._jax.types import dtype_fits, explicit_sharding, has_tangents, is_differentiable_dtype, is_ref, memory_of
from funcgrad._jax.types import is_unsharded
from funcgrad._jax.types import stacked_aval, unmentioned, whole, with_dimensions
from funcgrad._jax.values import add_cotangents, canonicalize, current_trace, is_local, is_tracer, may_compile
from funcgrad._jax.values import register_tracer, runs_eagerly, typed_scalar, typeof, weak_scalar

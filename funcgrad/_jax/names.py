"""What JAX keeps private and all supported releases have, unchanged. A new release means reading this list."""

from __future__ import annotations

# Programs.
from jax._src.core import DropVar, Jaxpr, Literal, Primitive, Var, current_jaxpr_eqn_context, new_jaxpr_eqn, no_effects
from jax._src.core import positional_effects
from jax._src.effects import remat_allowed_effects
from jax._src.interpreters.partial_eval import convert_constvars_jaxpr, inline_jaxpr_into_trace
from jax._src.interpreters.partial_eval import make_jaxpr_effects as program_effects
from jax._src.linear_util import wrap_init

# Traces, and the values on them.
from jax._src.array import ArrayImpl
from jax._src.config import disable_jit
from jax._src.core import eval_trace, get_referent, pytype_aval_mappings, set_current_trace, take_current_trace
from jax._src.core import to_concrete_value, trace_ctx
from jax._src.dtypes import canonicalize_value, canonicalize_value_handlers
from jax._src.interpreters.partial_eval import DynamicJaxprTrace
from jax._src.literals import TypedNdArray

# Types.
from jax._src import dtypes
from jax._src.api import _temporary_dtype_exception as is_temporary_dtype_exception
from jax._src.core import (
    MemorySpace,
    auto_insert_reshard,
    mem_kind_to_space,
    physical_aval,
    typecompat,
    typematch,
    unmapped_aval,
)
from jax._src.lax.lax import _convert_element_type as convert_element_type
from jax._src.lax.lax import _one_vjp as one_like
from jax._src.sharding_impls import UNSPECIFIED
from jax._src.shard_map import _all_newly_manual_mesh_names as manual_names
from jax._src.shard_map import _repspec as replicated_spec
from jax._src.shard_map import _unmentioned2 as unmentioned

# Arguments and results of transforms.
from jax._src.api import DidntWant, DontWant, GradRef, NotNeeded
from jax._src.api import _jacrev_unravel as unravel_rows
from jax._src.api import _std_basis as standard_basis
from jax._src.api_util import InternalFloatingPointError, check_callable
from jax._src.api_util import _ensure_index as ensure_index
from jax._src.api_util import _raise_no_nan_in_deoptimized as raise_no_nan_in_deoptimized
from jax._src.api_util import argnums_partial2 as argnums_partial
from jax._src.api_util import fun_sourceinfo
from jax._src.core import concrete_or_error
from jax._src.dispatch import ArrayCopySemantics, check_arg
from jax._src.tree_util import broadcast_prefix
from jax._src.util import weakref_lru_cache, wraps

# Lines and scopes.
from jax._src import source_info_util, traceback_util
from jax._src.source_info_util import current as current_source
from jax._src.source_info_util import current_name_stack as current_scope
from jax._src.source_info_util import summarize as user_line
from jax._src.source_info_util import user_context
from jax._src.traceback_util import api_boundary

# Derivatives as JAX has them. Fancy transposes add to accumulators what others return.
from jax._src.interpreters.ad import GradAccum, NullAccum, ValAccum
from jax._src.interpreters.ad import fancy_transposes as foreign_accumulations
from jax._src.interpreters.ad import primitive_linearizations as foreign_linearizations
from jax._src.interpreters.partial_eval import ensure_enum

# Functions.
from jax._src.interpreters.batching import _batch_jaxpr2 as batch_program
from jax._src.interpreters.partial_eval import trace_to_jaxpr as trace_to_program
from jax._src.numpy.lax_numpy import _piecewise as piecewise
from jax._src.numpy.linalg import _pinv as pinv
from jax._src.lax.other import logaddexp, logaddexp2
from jax._src.numpy.reductions import _std as std

# References.
from jax._src.state.discharge import _addupdate_discharge as addupdate_discharge
from jax._src.state.discharge import transform_array, transform_swap_array
from jax._src.state.types import ReadEffect, RefEffect

# Collectives.
from jax._src.core import pvary, reduced_vary_cast
from jax._src.lax.parallel import all_gather_reduced, preduced, unreduced_psum, unreduced_psum_scatter
from jax._src.lax.parallel import vary_unreduced_cast

# Primitives.
from jax._src.ad_checkpoint import name_p, remat_p
from jax._src.callback import io_callback_p, pure_callback_p
from jax._src.checkify import check_p
from jax._src.core import accum_grad_in_ref_p, empty_ref_p, free_ref_p, freeze_p, pvary_p, reduced_vary_cast_p, ref_p
from jax._src.custom_batching import custom_vmap_p
from jax._src.custom_derivatives import linear_call_p
from jax._src.debugging import debug_callback_p, debug_print_p, inspect_sharding_p
from jax._src.hijax import call_hi_primitive_p
from jax._src.lax.eval_jaxpr import eval_jaxpr_p
from jax._src.lax.linalg import geqrf_p
from jax._src.lax.lax import composite_p, dce_sink_p, from_edtype_p, ragged_dot_general_p, tie_p, to_edtype_p
from jax._src.lax.parallel import all_gather_invariant_p, all_gather_reduced_p, pbroadcast_p, preduced_p
from jax._src.lax.parallel import psum_invariant_p, reduce_scatter_p, unreduced_psum_p, unreduced_reduce_scatter_p
from jax._src.lax.parallel import vary_unreduced_cast_p
from jax._src.pjit import jit_p, layout_constraint_p, reshard_p
from jax._src.random.prng import random_bits_p, random_fold_in_p, random_seed_p, random_split_p
from jax._src.random.prng import random_unwrap_p, random_wrap_p
from jax._src.random.threefry2x32 import threefry2x32_p
from jax._src.shard_map import shard_map_p
from jax._src.state.primitives import addupdate_p, get_p, swap_p
from jax._src.xla_metadata import xla_metadata_value_p

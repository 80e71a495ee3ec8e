"""One side's loss, gradients and named values, run in the dtypes given or in another.

A run in float64 is one in float64 throughout: where the program asks for a narrower dtype, as layers that normalise and
position tables do, it is not given one. Otherwise such a cast would round the very result that rounding is judged by.

Each side is also asked for what it names. On jax's side ``checkpoint_name`` is a primitive, so a rule of it sees values
on the way forward and their cotangents on the way back. The program is run with ``jax.disable_jit``, one operation
after the other, so what the rule sees are numbers; not so with rules of whole functions, which are known by their
calls. On torch's side hooks see each module's output and its gradient.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax
from jax.extend.core.primitives import name_p, random_bits_p, remat_p, rng_uniform_p
from torch.overrides import TorchFunctionMode

from funcgrad import _jax
from funcgrad.parity.arrays import NARROW, TORCH_DTYPES, by_name, cast, is_array, is_float, to_numpy, to_tensor
from funcgrad.parity.modules import ModuleLoss
from funcgrad.rules import Rule, RuleTable, Wrapped, default
from funcgrad.rules.control.rewriting import Rewrite
from funcgrad.rules.rule import Formula, Joint
from funcgrad.transforms import value_and_grad


class Named(NamedTuple):
    """A named value: torch's modules may be called, and jax's names be given, more than once."""

    name: str
    call: int

    def __str__(self) -> str:
        return self.name if self.call == 0 else f"{self.name} (call {self.call + 1})"


class Run:
    """What one side computed. Named values come in order of the way forward, cotangents in that of the way back."""

    def __init__(self) -> None:
        self.loss: np.ndarray
        self.grads: dict[str, np.ndarray]
        self.values: dict[Named, np.ndarray] = {}
        self.cotangents: dict[Named, np.ndarray] = {}
        self.unused: frozenset[str] = frozenset()
        self.calls: Counter[str] = Counter()

    def value(self, name: str, x: np.ndarray) -> Named:
        """Take note of a named value."""
        key = Named(name, self.calls[name])
        self.calls[name] += 1
        self.values[key] = x
        return key


@dataclass(frozen=True)
class Inputs:
    """Parameters and batch, as NumPy arrays that both sides start from."""

    params: Any
    batch: tuple[Any, ...]

    @staticmethod
    def of(params: Any, batch: Sequence[Any]) -> Inputs:
        inputs = Inputs(*jax.tree.map(host, (params, tuple(batch))))
        named = by_name(inputs.params)
        if not named:
            raise ValueError("params is empty: there is nothing to compare")
        for name, x in named.items():
            if not is_array(x) or not is_float(x):
                dtype = getattr(x, "dtype", type(x).__name__)
                raise TypeError(
                    f"params['{name}'] is {dtype}; gradients are compared of float64, float32, float16 and bfloat16. "
                    "Close over anything else, such as a counter among a module's buffers, instead."
                )
        return inputs

    def cast(self, dtype: Any) -> Inputs:
        return Inputs(*jax.tree.map(lambda x: cast(x, dtype), (self.params, self.batch)))

    def dtype(self) -> np.dtype:
        """The dtype of the parameters; of several, the one with the fewest digits."""
        return max({x.dtype for x in by_name(self.params).values()}, key=lambda dtype: jnp.finfo(dtype).eps)


def host(x: Any) -> Any:
    """An array of either side as a NumPy array of the dtype that jax would give it."""
    if not is_array(x):
        return x
    x = to_numpy(x)
    return x.astype(jax.dtypes.canonicalize_dtype(x.dtype))


# jax's side


def run_jax(loss: Callable, inputs: Inputs, rules: RuleTable, dtype: Any = None, *, wide: bool = False) -> Run:
    """The jax side in ``dtype``, or as given; in nothing but float64 if ``wide``."""
    run = Run()
    spelled_out = Rewrite(lambda *args, jaxpr, **_: jax.core.eval_jaxpr(jaxpr, (), *args))
    rules = rules.override({name_p: Observed(run), remat_p: spelled_out})
    rules = rules.override({random_bits_p: REFUSED, rng_uniform_p: REFUSED})
    if wide:
        # These rules do what they did, so rules of functions do not yield to them.
        wider = {p: Wrapped(r, in_float64, always=True) for p, r in rules.items() if computes(p, r)}
        rules = RuleTable({**rules, **wider}, rules.fallback, rules.keeps_source, changed=rules.changed)
    with contextlib.ExitStack() as settings:
        if set(rules.functions) <= set(default.functions):  # others have rules that are theirs as calls only
            settings.enter_context(jax.disable_jit())
        if dtype is not None:
            inputs = inputs.cast(dtype)
            settings.enter_context(jax.enable_x64(np.dtype(dtype) == np.float64))
        arguments = inputs.params, inputs.batch
        params, batch = jax.tree.map(lambda x: jnp.asarray(x) if is_array(x) else x, arguments)
        value, grads = value_and_grad(loss, rules=rules)(params, *batch)
        run.loss, run.grads = np.asarray(value), {name: np.asarray(g) for name, g in by_name(grads).items()}
    return run


class Observed(Rule):
    """The rule of ``checkpoint_name`` that shows what comes by and hands it on."""

    always = True

    def __init__(self, run: Run):
        self.run = run

    def record(self, tape, primitive, primals, tracers, params, linear):
        (x,), (tracer,) = primals, tracers
        key = None if linear or isinstance(x, jax.core.Tracer) else self.run.value(params["name"], np.asarray(x))
        return x if tracer is None else tape.emit(self, primitive, params, key, (), tracers, x)

    def pullback(self, node, cts):
        if node.static is not None and not isinstance(cts[0], jax.core.Tracer):
            self.run.cotangents[node.static] = np.asarray(cts[0])
        return cts


NARROWER = frozenset(TORCH_DTYPES) - {np.dtype(np.float64)}


def computes(key: Any, rule: Rule) -> bool:
    """Whether a rule is that of an operation on numbers, which can be done in any precision."""
    return isinstance(rule, Formula | Joint) and key is not lax.bitcast_convert_type_p


def in_float64(rule: Rule, tape: Any, primitive: Any, primals: Any, tracers: Any, params: Any, linear: bool) -> Any:
    """Record an operation in float64 where its operands, such as arrays that the loss closes over, are narrower.

    The tape records what the primitive computed, so this changes the way forward too.
    """
    if tape.parent is _jax.eval_trace:
        primals = [np.asarray(x, np.float64) if getattr(x, "dtype", None) in NARROWER else x for x in primals]
        params = {
            k: np.dtype(np.float64) if isinstance(v, np.dtype) and v in NARROWER else v for k, v in params.items()
        }
    if rule.always or any(t is not None for t in tracers):
        return rule.record(tape, primitive, primals, tracers, params, linear)
    return tape.evaluate(primitive, primals, params, linear)


class Refused(Rule):
    """The rule of random numbers: the two sides cannot draw the same."""

    always = True

    def record(self, tape, primitive, primals, tracers, params, linear):
        line = _jax.user_line(_jax.current_source())
        raise ValueError(f"jax_loss draws random numbers at {line}. {NOTHING_TO_COMPARE}")


REFUSED = Refused()
NOTHING_TO_COMPARE = (
    "The two sides cannot draw the same ones, so there is nothing to compare: leave dropout out (module.eval() on "
    "torch's side), or draw the numbers before and pass them in the batch."
)


# torch's side


def run_torch(loss: Callable, inputs: Inputs, dtype: Any = None, *, wide: bool = False) -> Run:
    """The torch side; as ``run_jax``."""
    run = Run()
    if dtype is not None:
        inputs = inputs.cast(dtype)
    leaves, tree = jax.tree.flatten(inputs.params)
    tensors = [to_tensor(x).requires_grad_() for x in leaves]
    batch = jax.tree.map(to_tensor, inputs.batch)
    with contextlib.ExitStack() as settings:
        settings.enter_context(torch.enable_grad())
        settings.enter_context(torch.random.fork_rng(devices=[]))
        if wide:
            settings.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float64)
            settings.enter_context(InFloat64())
        for name, module in loss.module.named_modules() if isinstance(loss, ModuleLoss) else ():
            if name:
                settings.enter_context(module.register_forward_hook(showing(name, run)))
        before = torch.get_rng_state()
        value = call_torch(loss, jax.tree.unflatten(tree, tensors), batch)
        if not torch.equal(before, torch.get_rng_state()):
            raise ValueError(random_numbers(loss))
        grads = torch.autograd.grad(value, tensors, allow_unused=True)
    names = list(by_name(inputs.params))
    run.unused = frozenset(name for name, g in zip(names, grads, strict=True) if g is None)
    if len(run.unused) == len(names):
        raise ValueError(NOT_A_FUNCTION_OF_PARAMS)
    arrays = [np.zeros(x.shape, x.dtype) if g is None else to_numpy(g) for x, g in zip(leaves, grads, strict=True)]
    run.loss, run.grads = to_numpy(value), dict(zip(names, arrays, strict=True))
    return run


NOT_A_FUNCTION_OF_PARAMS = (
    "torch_loss does not depend on params. It has to use the tensors it is passed (torch.func.functional_call, as "
    "fg.parity.module_loss does), not those of a module, and must not detach them or run under torch.no_grad."
)


def call_torch(loss: Callable, params: Any, batch: Sequence[Any]) -> torch.Tensor:
    try:
        value = loss(params, *batch)
    except RuntimeError as error:
        dtypes = {str(x.dtype) for x in jax.tree.leaves((params, batch)) if is_array(x) and x.is_floating_point()}
        if len(dtypes) > 1:
            error.add_note(f"params and batch are {' and '.join(sorted(dtypes))}, which torch may not mix as jax does.")
        raise
    if not isinstance(value, torch.Tensor) or value.shape != ():
        got = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"type {type(value).__name__}"
        raise TypeError(f"torch_loss must return a scalar tensor, but its result has {got}. Take its mean or its sum.")
    if not value.requires_grad:
        raise ValueError(NOT_A_FUNCTION_OF_PARAMS)
    return value


def random_numbers(loss: Callable) -> str:
    drawn_by = loss.random_modules() if isinstance(loss, ModuleLoss) else []
    where = f": {', '.join(drawn_by)} in training mode" if drawn_by else ""
    return f"torch_loss draws random numbers{where}. {NOTHING_TO_COMPARE}"


class InFloat64(TorchFunctionMode):
    """Makes float64 of every narrower dtype that a call asks for, and of tensors that a function closes over."""

    def __torch_function__(self, func, types, args=(), kwargs: Mapping | None = None):
        if func in (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16):
            func = torch.Tensor.double
        args, kwargs = jax.tree.map(widened, (args, kwargs or {}))
        return func(*args, **kwargs)


def widened(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return x.double() if x.dtype in NARROW else x
    return torch.float64 if isinstance(x, torch.dtype) and x in NARROW else x


def showing(name: str, run: Run) -> Callable[[torch.nn.Module, Any, Any], None]:
    """A hook that shows the output of the module of that name, the first of several, and the gradient of it."""

    def hook(module: torch.nn.Module, args: Any, out: Any) -> None:
        while isinstance(out, tuple | list) and out:
            out = out[0]
        if isinstance(out, torch.Tensor) and out.is_floating_point():
            key = run.value(name, to_numpy(out))
            if out.requires_grad:
                out.register_hook(lambda ct: run.cotangents.__setitem__(key, to_numpy(ct)))

    return hook

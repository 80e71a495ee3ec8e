"""vjp, grad, value_and_grad, jacrev, hessian and hvp: the handling of arguments over the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, ParamSpec, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad import _jax
from funcgrad.engine.recording import Recording
from funcgrad.pullback import Pullback, Signature, pull_back, record
from funcgrad.rules import RuleTable, table_of

__all__ = ["grad", "hessian", "hvp", "jacrev", "value_and_grad", "vjp"]

#: What a function takes, what it returns, and what it returns besides.
P = ParamSpec("P")
Out = TypeVar("Out")
Aux = TypeVar("Aux")


@overload
def vjp(
    fun: Callable[..., Out], *primals: Any, has_aux: Literal[False] = False, rules: RuleTable | None = None
) -> tuple[Out, Pullback]: ...
@overload
def vjp(
    fun: Callable[..., tuple[Out, Aux]], *primals: Any, has_aux: Literal[True], rules: RuleTable | None = None
) -> tuple[Out, Pullback, Aux]: ...
@overload
def vjp(fun: Callable[..., Any], *primals: Any, has_aux: bool, rules: RuleTable | None = None) -> tuple[Any, ...]: ...
@_jax.api_boundary
def vjp(
    fun: Callable[..., Any], *primals: Any, has_aux: bool = False, rules: RuleTable | None = None
) -> tuple[Any, ...]:
    """The value of ``fun`` and its pullback, the reverse-mode derivative at ``primals``.

    Args:
      fun: a function of arrays, scalars or pytrees of them, returning such a pytree.
      *primals: the point at which to differentiate; a positional argument each.
      has_aux: whether ``fun`` returns a pair of which only the first is differentiated.
      rules: the derivative rules, ``funcgrad.rules.default`` if None.

    Returns:
      ``(out, pullback)``, or ``(out, pullback, aux)``. ``pullback(ct)`` takes a cotangent of ``out``'s structure,
      shapes and dtypes and returns a tuple with one cotangent per primal. It is a pytree of the residuals it holds, so
      it can cross a ``jit`` boundary. The cotangent of an integer or boolean leaf has dtype ``float0``.

    Raises:
      TypeError: a primal is not an array, or the pullback is called with more than one argument.
      ValueError: a cotangent's tree, shape or dtype is not the output's.

    >>> import jax.numpy as jnp
    >>> out, pullback = vjp(lambda x, y: jnp.sin(x) * y, 0.0, 2.0)
    >>> [float(ct) for ct in pullback(1.0)]
    [2.0, 0.0]
    """
    out, recording, signature, leaves, aux = run(fun, primals, has_aux, rules)
    pullback = Pullback(recording, signature, leaves)
    return (out, pullback, aux) if has_aux else (out, pullback)


def run(
    fun: Callable[..., Any], primals: tuple[Any, ...], has_aux: bool, rules: RuleTable | None
) -> tuple[Any, Recording, Signature, list[Any], Any]:
    """Record ``fun`` at ``primals``. Returns the output, the recording, its signature, the primals' leaves and aux."""
    _jax.check_callable(fun)
    leaves, tree = jax.tree.flatten(primals)
    leaves = [x if _jax.is_tracer(x) else _jax.canonicalize(checked(x)) for x in leaves]
    out, recording, signature, aux = record(fun, leaves, tree, has_aux, table_of(rules))
    return out, recording, signature, leaves, aux


def checked(x: Any) -> Any:
    _jax.check_arg(x)
    return x


def value_and_grad(
    fun: Callable[P, Out],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    rules: RuleTable | None = None,
) -> Callable[P, tuple[Out, Any]]:
    """A function that returns both the value of the scalar function ``fun`` and its gradient.

    Args:
      fun: a function whose arguments at ``argnums`` are arrays, scalars or pytrees of them; it returns a real scalar
        (shape ``()``), or a pair of one and auxiliary data if ``has_aux``.
      argnums: which positional arguments to differentiate with respect to; negative counts from the end. With an int
        the gradient has that argument's structure, with a sequence it is a tuple of such.
      has_aux: whether ``fun`` returns ``(value, aux)``.
      holomorphic: whether ``fun`` is promised to be holomorphic; its inputs and output must then be complex.
      allow_int: whether integer and boolean inputs are allowed; their gradients have dtype ``float0``.
      rules: the derivative rules, ``funcgrad.rules.default`` if None.

    Returns:
      A function of ``fun``'s arguments returning ``(value, gradient)``, or ``((value, aux), gradient)``.

    Raises:
      TypeError: the output is not a real scalar, an input is not differentiable, or ``argnums`` is out of range.

    >>> value_and_grad(lambda x: x * x)(3.0)
    (Array(9., dtype=float32, weak_type=True), Array(6., dtype=float32, weak_type=True))
    """
    _jax.check_callable(fun)
    argnums = _jax.concrete_or_error(_jax.ensure_index, argnums)

    @_jax.wraps(
        fun,
        docstr="Value and gradient of {fun} with respect to positional argument(s) {argnums}. Takes the arguments of "
        "{fun} and returns a pair of its value and the gradient.",
        argnums=argnums,
    )
    @_jax.api_boundary
    def value_and_grad_f(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        value, gradient = halves(fun, argnums, args, kwargs, has_aux, holomorphic, allow_int, rules)
        return value, gradient()

    return value_and_grad_f


def halves(
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    has_aux: bool,
    holomorphic: bool,
    allow_int: bool,
    rules: RuleTable | None,
) -> tuple[Any, Callable[[], Any]]:
    """The value, with aux if there is any, and a function without arguments that computes the gradient."""
    partial, dynamic = split_arguments(fun, argnums, args, kwargs)
    for leaf in jax.tree.leaves(dynamic):
        check_input("grad", leaf, holomorphic, allow_int)
    value, recording, signature, _, aux = run(partial, dynamic, has_aux, rules)
    check_scalar(value)
    check_output("grad", value, holomorphic)

    def gradient() -> Any:
        found = jax.tree.unflatten(signature.in_tree, pull_back(recording, signature, _jax.one_like(value)))
        return found[0] if isinstance(argnums, int) else found

    return ((value, aux) if has_aux else value), gradient


def grad(
    fun: Callable[P, Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    rules: RuleTable | None = None,
) -> Callable[P, Any]:
    """A function that returns the gradient of the scalar function ``fun``.

    Arguments and errors are those of ``value_and_grad``. The result has the structure, shapes and dtypes of the
    arguments at ``argnums``; with ``has_aux`` it is a pair ``(gradient, aux)``.

    >>> import jax.numpy as jnp
    >>> print(grad(jnp.tanh)(0.2))
    0.96104...
    """
    value_and_grad_f = value_and_grad(fun, argnums, has_aux, holomorphic, allow_int, rules=rules)

    @_jax.wraps(
        fun,
        docstr="Gradient of {fun} with respect to positional argument(s) {argnums}. Takes the arguments of {fun} and "
        "returns its gradient.",
        argnums=argnums,
    )
    @_jax.api_boundary
    def grad_f(*args: Any, **kwargs: Any) -> Any:
        value, gradient = value_and_grad_f(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return grad_f


def jacrev(
    fun: Callable[P, Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    rules: RuleTable | None = None,
) -> Callable[P, Any]:
    """A function that returns the Jacobian of ``fun``, row by row with reverse mode.

    Arguments are those of ``value_and_grad``, except that ``fun`` may return any pytree of arrays. For an output leaf
    of shape ``s`` and an input leaf of shape ``t`` the result holds an array of shape ``s + t``, in the output's
    structure of the input's structure.

    >>> import jax.numpy as jnp
    >>> jacrev(lambda x: x**2)(jnp.arange(2.0)).tolist()
    [[0.0, 0.0], [0.0, 2.0]]
    """
    _jax.check_callable(fun)
    argnums = _jax.concrete_or_error(_jax.ensure_index, argnums)

    @_jax.wraps(
        fun,
        docstr="Jacobian of {fun} with respect to positional argument(s) {argnums}. Takes the arguments of {fun}.",
        argnums=argnums,
    )
    def jacobian_f(*args: Any, **kwargs: Any) -> Any:
        partial, dynamic = _jax.argnums_partial(fun, argnums, args, kwargs)
        for leaf in jax.tree.leaves(dynamic):
            check_input("jacrev", leaf, holomorphic, allow_int)
        out, pullback, *aux = vjp(partial, *dynamic, has_aux=has_aux, rules=rules)
        for leaf in jax.tree.leaves(out):
            check_output("jacrev", leaf, holomorphic)
        rows = jax.vmap(pullback)(_jax.standard_basis(out))
        example = dynamic
        if isinstance(argnums, int):
            (rows,), (example,) = rows, dynamic
        jacobian = jax.tree.map(lambda x, row: _jax.unravel_rows(out, x, row), example, rows)
        jacobian = jax.tree.transpose(jax.tree.structure(example), jax.tree.structure(out), jacobian)
        return (jacobian, *aux) if has_aux else jacobian

    return jacobian_f


def hessian(
    fun: Callable[P, Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    *,
    rules: RuleTable | None = None,
) -> Callable[P, Any]:
    """A function that returns the Hessian of ``fun``, forward mode over reverse mode.

    For an output leaf of shape ``s`` and input leaves of shapes ``t`` and ``u`` the result holds an array of shape
    ``s + t + u``.

    >>> import jax.numpy as jnp
    >>> hessian(lambda x: jnp.sum(x**3))(jnp.arange(2.0)).tolist()
    [[0.0, 0.0], [0.0, 6.0]]
    """
    gradient = jacrev(fun, argnums, has_aux=has_aux, holomorphic=holomorphic, rules=rules)
    return jax.jacfwd(gradient, argnums, has_aux=has_aux, holomorphic=holomorphic)


def hvp(
    fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], *, rules: RuleTable | None = None
) -> Any:
    """The product of the Hessian of the scalar function ``fun`` with a vector, without forming the Hessian.

    Args:
      fun: a function of one or more positional arguments that returns a real scalar.
      primals: a sequence of the arguments.
      tangents: the vector, a sequence of the primals' structures, shapes and dtypes.

    Returns:
      For one argument its Hessian-vector product; for several, a tuple of them.

    Raises:
      TypeError: the two sequences differ in length or structure, or ``fun`` is not scalar.

    >>> import jax.numpy as jnp
    >>> hvp(lambda x: jnp.sum(x**3), (jnp.arange(2.0),), (jnp.ones(2),)).tolist()
    [0.0, 6.0]
    """
    primals, tangents = tuple(primals), tuple(tangents)
    argnums = 0 if len(primals) == 1 else tuple(range(len(primals)))
    _, product = jax.jvp(grad(fun, argnums, rules=rules), primals, tangents)
    return product


def split_arguments(
    fun: Callable[..., Any], argnums: int | Sequence[int], args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """``fun`` as a function of its arguments at ``argnums`` alone, and those arguments."""
    highest = argnums if isinstance(argnums, int) else max(argnums, default=-1)
    if highest >= len(args):
        raise TypeError(
            f"differentiating with respect to {argnums=} requires at least {highest + 1} positional arguments to be "
            f"passed by the caller, but got only {len(args)} positional arguments."
        )
    partial, dynamic = _jax.argnums_partial(fun, argnums, args, kwargs)
    return partial, dynamic


def check_input(name: str, x: Any, holomorphic: bool, allow_int: bool) -> None:
    _jax.check_arg(x)
    dtype = getattr(_jax.typeof(x), "dtype", None)
    if dtype is None:
        return
    if holomorphic and not jnp.issubdtype(dtype, np.complexfloating):
        raise TypeError(f"{name} with holomorphic=True requires inputs with complex dtype, but got {dtype.name}.")
    if any(jnp.issubdtype(dtype, kind) for kind in (_jax.extended, np.integer, np.bool_)):
        if not allow_int:
            raise TypeError(
                f"{name} requires real- or complex-valued inputs (input dtype that is a sub-dtype of np.inexact), but "
                f"got {dtype.name}. If you want to use Boolean- or integer-valued inputs, use vjp or set allow_int to "
                "True."
            )
    elif not jnp.issubdtype(dtype, np.inexact):
        raise TypeError(
            f"{name} requires numerical-valued inputs (input dtype that is a sub-dtype of np.bool_ or np.number), but "
            f"got {dtype.name}."
        )


def check_scalar(x: Any) -> None:
    try:
        aval = _jax.typeof(x)
    except TypeError as error:
        raise TypeError(f"Gradient only defined for scalar-output functions. Output was {x}.") from error
    if not isinstance(aval, jax.core.ShapedArray):
        raise TypeError(f"Gradient only defined for scalar-output functions. Output had abstract value {aval}.")
    if aval.shape != ():
        raise TypeError(
            f"Gradient only defined for scalar-output functions. Output had shape: {aval.shape}. Reduce it to a "
            "scalar, for instance with jnp.sum or jnp.mean, or use vjp or jacrev."
        )


def check_output(name: str, x: Any, holomorphic: bool) -> None:
    dtype = _jax.typeof(x).dtype
    if jnp.issubdtype(dtype, _jax.extended):
        raise TypeError(f"{name} with output element type {dtype.name}")
    if holomorphic:
        if not jnp.issubdtype(dtype, np.complexfloating):
            raise TypeError(f"{name} with holomorphic=True requires outputs with complex dtype, but got {dtype.name}.")
    elif jnp.issubdtype(dtype, np.complexfloating):
        raise TypeError(
            f"{name} requires real-valued outputs (output dtype that is a sub-dtype of np.floating), but got "
            f"{dtype.name}. For holomorphic differentiation, pass holomorphic=True. For differentiation of "
            "non-holomorphic functions involving complex outputs, use vjp directly."
        )
    elif not jnp.issubdtype(dtype, np.floating):
        raise TypeError(
            f"{name} requires real-valued outputs (output dtype that is a sub-dtype of np.floating), but got "
            f"{dtype.name}. For differentiation of functions with integer outputs, use vjp directly."
        )

"""Random bits and keys: nothing to differentiate."""

from __future__ import annotations

from jax import lax

from funcgrad import _jax
from funcgrad.rules.rule import no_derivative

rules = dict.fromkeys(
    [
        _jax.random_bits_p, _jax.random_seed_p, _jax.random_split_p, _jax.random_fold_in_p, _jax.threefry2x32_p,
        _jax.random_wrap_p, _jax.random_unwrap_p, lax.rng_bit_generator_p, lax.rng_uniform_p,
    ],
    no_derivative,
)  # fmt: skip

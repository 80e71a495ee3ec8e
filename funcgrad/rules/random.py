"""Random bits and keys: nothing to differentiate."""

from __future__ import annotations

from jax.extend.core import primitives as p

from funcgrad import _jax
from funcgrad.rules.table import no_derivative

rules = dict.fromkeys(
    [
        p.random_bits_p, p.random_seed_p, p.random_split_p, p.random_fold_in_p, p.threefry2x32_p,
        _jax.random_wrap_p, _jax.random_unwrap_p, p.rng_bit_generator_p, p.rng_uniform_p,
    ],
    no_derivative,
)  # fmt: skip

"""Fourier transforms."""

from __future__ import annotations

import math

import numpy as np
from jax import lax

from funcgrad.rules.numbers import const
from funcgrad.rules.rule import formula


def fft(ct, *, fft_type, fft_lengths):
    """The same transform of ct.

    The Fourier matrix is symmetric; a real transform is half of it, and the other half the first one's conjugate.
    """
    if fft_type is lax.FftType.RFFT:
        halves = lax.div(lax.conj(ct), multiplicity(ct, ct.shape[-1], fft_lengths))
        x_ct = transform(halves, lax.FftType.IRFFT, fft_lengths)
        return lax.mul(x_ct, const(x_ct, math.prod(fft_lengths)))
    if fft_type is lax.FftType.IRFFT:
        x_ct = lax.conj(transform(ct, lax.FftType.RFFT, fft_lengths))
        return lax.mul(x_ct, multiplicity(x_ct, x_ct.shape[-1], fft_lengths) / const(x_ct, math.prod(fft_lengths)))
    return transform(ct, fft_type, fft_lengths)


def transform(x, fft_type, fft_lengths):
    return lax.fft_p.bind(x, fft_type=fft_type, fft_lengths=fft_lengths)


def multiplicity(x, length, fft_lengths):
    """How often each frequency of a real transform occurs in the whole: once where its own conjugate, else twice."""
    counts = np.full((1,) * (x.ndim - 1) + (length,), 2, x.dtype)
    counts[..., 0] = 1
    if fft_lengths[-1] % 2 == 0:
        counts[..., -1] = 1
    return counts


rules = {lax.fft_p: formula(fft)}

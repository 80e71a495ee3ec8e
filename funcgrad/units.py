"""Amounts of memory, as people write them."""

from __future__ import annotations

import re
from typing import Any

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def in_bytes(memory: Any, whole: float) -> float:
    """An amount of memory in bytes: a number of bytes, a text such as ``"1.5 GiB"``, or a fraction of ``whole``."""
    if isinstance(memory, str):
        found = re.fullmatch(r"\s*([\d.]+)\s*([a-zA-Z]+)\s*", memory)
        units = {name.lower(): factor for name, factor in UNITS.items()}
        try:
            amount, unit = float(found[1]), units[found[2].lower()]  # type: ignore[index]
        except (TypeError, ValueError, KeyError):
            raise ValueError(
                f"memory={memory!r} is no amount of memory: write a number and one of {', '.join(UNITS)}, as in "
                '"1.5 GiB"'
            ) from None
        return amount * unit
    if isinstance(memory, bool) or not isinstance(memory, int | float):
        raise TypeError(f'memory={memory!r} is to be bytes (an int), a text such as "1.5 GiB" or a fraction (a float)')
    if isinstance(memory, float):
        if not 0 < memory <= 1:
            raise ValueError(f"memory={memory!r} is to be a fraction, above 0 and at most 1; bytes are an int")
        return memory * whole
    if memory <= 0:
        raise ValueError(f"memory={memory!r} bytes is no room for anything")
    return float(memory)


def in_units(amount: float) -> str:
    """Bytes as they are read: in the largest unit of which there is one at least."""
    for name in ("GiB", "MiB", "KiB"):
        if amount >= UNITS[name]:
            return f"{amount / UNITS[name]:.4g} {name}"
    return f"{amount:.0f} B"

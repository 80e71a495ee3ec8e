"""The guide, the page of optimizers and the example of a training run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from docs import generate_optimizers
from docs.generate_optimizers import CLIPPING, OPTIMIZERS, SCHEDULES
from funcgrad.__main__ import example

pytestmark = pytest.mark.torch

DOCS = Path(__file__).resolve().parents[2] / "docs"


def digits_masked(text: str) -> str:
    """``text`` without what rounding decides: digits, the width of columns, and whether two numbers are equal."""
    text = re.sub(r"-?\d[\d.]*(e[+-]\d+)?", "#", text)
    return re.sub(r"[ ]+", " ", text.replace("equal", "rounding")).strip()


def test_the_guide_runs_and_prints_what_it_shows(capsys):
    guide = (DOCS / "parity.md").read_text(encoding="utf-8")
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", guide, flags=re.DOTALL | re.MULTILINE):
        exec(compile(block, "parity.md", "exec"), names)
    shown = re.findall(r"^```text\n(.*?)^```", guide, flags=re.DOTALL | re.MULTILINE)
    assert digits_masked("".join(shown)) == digits_masked(capsys.readouterr().out)
    assert names["faithful"].ok and names["buggy"].first_value.name == "1"
    assert names["params"]["0"]["weight"].shape == (8, 16)


def test_the_page_of_optimizers_is_that_of_the_table():
    page = generate_optimizers.PATH.read_text(encoding="utf-8")
    assert page == generate_optimizers.page()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) == len([*OPTIMIZERS, *SCHEDULES, *CLIPPING])
    assert all(row.count("|") == 4 for row in rows)


@pytest.mark.slow
def test_the_ported_network_trains_as_the_original_does(torch, tmp_path):
    ported_mlp = example("ported_mlp")
    ported = ported_mlp.main()
    assert ported.report.ok and len(ported.torch) == len(ported.jax) == 200
    assert ported.torch[-10:].mean() < 0.2 * ported.torch[0]
    apart, apart64 = np.abs(ported.torch - ported.jax).max(), np.abs(ported.torch64 - ported.jax64).max()
    own = max(np.abs(ported.torch - ported.torch64).max(), np.abs(ported.jax - ported.jax64).max())
    # What rounding has added up to in float32 it has in float64, with 5e8 times finer digits.
    assert apart64 < 1e-12
    assert 0 < apart <= 2 * own < 1e-3
    ported_mlp.draw(ported, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")

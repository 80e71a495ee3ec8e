"""The page of all rules."""

from __future__ import annotations

import pytest

import funcgrad as fg
from docs import generate_rules


@pytest.fixture(scope="module")
def page():
    return generate_rules.page()


def test_page_shows_every_primitive_once(page):
    rows = [line for line in page.splitlines() if line.startswith(("| `", "Without derivative"))]
    for primitive in fg.rules.default:
        assert sum(f"`{primitive}`" in line.split(" | ")[0] for line in rows) == 1, primitive


def test_tables_of_the_page_are_whole(page):
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {4}


def test_page_shows_formulas_and_what_they_save(page):
    assert "| `mul` | x: `ct * y`<br>y: `ct * x` | `y`<br>`x` |" in page
    assert "| `neg` | `-ct` |  |" in page
    assert "| `max`, `min` | " in page and "`x_wins` = `x == out`" in page


def test_page_is_written_only_where_it_changed(tmp_path):
    generate_rules.write(tmp_path)
    path = tmp_path / "every_rule.md"
    before = path.stat().st_mtime_ns
    generate_rules.write(tmp_path)
    assert path.stat().st_mtime_ns == before
    path.write_text("old")
    generate_rules.write(tmp_path)
    assert path.read_text(encoding="utf-8") == generate_rules.page()

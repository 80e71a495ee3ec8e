"""The guides: their code runs, and prints what they say it prints."""

from __future__ import annotations

import contextlib
import doctest
import io
import linecache
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
GUIDES = ["nan_gradient.md", "lost_gradient.md", "memory.md"]
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", GUIDES)
def test_its_blocks_run_one_after_the_other_and_print_what_they_say(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    path = DOCS / name
    text = path.read_text(encoding="utf-8")
    linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True), str(path))
    namespace: dict = {}
    printed = ""
    for match in BLOCK.finditer(text):
        kind, block = match.groups()
        before = text.count("\n", 0, match.start(2))
        if kind == "python":
            assert not printed, f"line {before}: what was printed is not shown:\n{printed}"
            with contextlib.redirect_stdout(io.StringIO()) as out:
                # As many lines down as in the page, which is where reports then say that operations are.
                exec(compile("\n" * before + block, str(path), "exec"), namespace)
            printed = out.getvalue()
        else:
            assert doctest.OutputChecker().check_output(block, printed, OPTIONS), f"line {before}: printed\n{printed}"
            printed = ""
    assert not printed


@pytest.mark.parametrize("name", GUIDES)
def test_it_is_in_the_table_of_contents(name):
    assert f"\n{name.removesuffix('.md')}\n" in (DOCS / "index.md").read_text(encoding="utf-8")

"""The list of the tests of JAX's own suite that do not hold for funcgrad."""

import re
import tomllib
from pathlib import Path

EXCEPTIONS = tomllib.loads(Path(__file__).with_name("jax_suite.toml").read_text())


def test_each_exception_names_a_test_and_says_why():
    for file, tests in EXCEPTIONS.items():
        assert file.endswith("_test")
        for name, reason in tests.items():
            assert re.fullmatch(r"\w+Test::test\w+(='\w+')?", name) and len(reason.split()) > 5


def test_there_are_no_more_than_there_were():
    assert sum(map(len, EXCEPTIONS.values())) <= 16

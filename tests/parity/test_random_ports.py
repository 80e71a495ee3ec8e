"""Random ports: right ones are never called wrong, and what is wrong with the others is found, mostly where it is."""

import pytest

from tests.parity.random_ports import judged

pytestmark = pytest.mark.torch


@pytest.mark.slow
def test_right_ports_are_called_right_and_faults_are_found_where_they_are():
    false, missed, misplaced = judged(range(12))
    assert false == []
    assert missed == []
    assert len(misplaced) <= 3

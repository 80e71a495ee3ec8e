"""Random ports: right ones are never called wrong, and what is wrong with the others is found, mostly where it is.

They are the same four each time, unless the environment variable FUNCGRAD_PORTS asks for a number of them.
"""

import os

import pytest

from tests.parity.random_ports import Fault, RandomPort, judged

pytestmark = pytest.mark.torch
COUNT = int(os.environ.get("FUNCGRAD_PORTS", "4"))


@pytest.mark.slow
def test_right_ports_are_called_right_and_faults_are_found_where_they_are():
    false, missed, misplaced = judged(range(COUNT))
    assert false == []
    assert missed == []
    assert len(misplaced) <= COUNT // 4


def test_a_fault_before_a_relu_that_is_off_everywhere_does_not_show():
    port = RandomPort(73)
    off, head = port.fault(), Fault(layer=11, kind="value", size=1e-3)
    assert off.layer == 8 and not port.shows(off)
    assert port.shows(head)

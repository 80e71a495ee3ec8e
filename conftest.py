"""What is not collected where there is no PyTorch."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") else ["funcgrad/parity*", "tests/parity*"]

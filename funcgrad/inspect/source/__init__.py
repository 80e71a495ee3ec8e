"""The backward pass as Python: ``backward_source``."""

from funcgrad.inspect.source.writing import backward_source

__all__ = ["backward_source"]

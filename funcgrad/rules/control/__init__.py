"""Rules of primitives that carry a program."""

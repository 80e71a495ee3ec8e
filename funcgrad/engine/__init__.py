"""The engine: the tape that records, the sweep that goes back, and the split of a program into these two halves."""

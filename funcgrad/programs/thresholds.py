"""Where one way of computing overtakes another: each number with the machine and the measurement it comes from.

All were measured with jax 0.10.2 on the CPU, two cores of an x86-64 server (AVX-512), each pair alternately in one
process. A number decides for speed or memory only; what is computed is the same on either side of it.
"""

from __future__ import annotations

#: What a dimension that is open until the program is called is taken for when sizes are weighed. Not measured.
OPEN = 32

#: A product of a loop's element with a constant is computed ahead where the constant has so many times its bytes: the
#: products of all steps are written and read again. LSTM and GRU, batch 1 to 64 (``benchmarks``, recurrent).
AHEAD = 64

#: The rows for which turned weights pay: twice as fast for 2 to 16; at 32 a GRU took 4% more and an LSTM 5% less.
TURN_ROWS = range(2, 17)
#: With fewer steps turning the weights costs about what it saves.
TURN_STEPS = 8
#: The weights are kept twice, so they are turned where the loop's stacks have at least so many times their bytes.
TURN_STACKS = 2

#: With fewer steps taken together a loop around the loop costs about what it saves (LSTM, 64 to 512 steps).
DEFER_STEPS = 4

#: Carried arrays of fewer bytes are left alone. A step of a gradient with the array copied and in place: 0.43 and 0.05
#: microseconds at 1024 bytes, 0.13 and 0.03 at 256, the same from 128 bytes down.
IN_PLACE_BYTES = 1024

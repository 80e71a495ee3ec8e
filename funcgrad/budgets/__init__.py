"""Memory as an argument: what a gradient holds, and programs that hold no more than they were told to."""

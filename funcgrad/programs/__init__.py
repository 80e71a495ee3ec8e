"""Programs: what a jaxpr is to us, and what can be done with one."""

"""The sampling core: schedule, samplers, the loop. Pure functions of tensors; no I/O, no global state."""

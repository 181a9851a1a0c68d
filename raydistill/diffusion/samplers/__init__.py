"""Samplers: one file each. A sampler turns a prediction at x_t into x_{t-1}; guidance enters in a space it accepts."""

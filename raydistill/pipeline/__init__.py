"""A run from its configuration to its end: what is checked first, the stages in order, what is left behind."""

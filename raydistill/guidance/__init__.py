"""Guidance methods: one file each, stateless. Each returns a shift in a declared space within its window."""

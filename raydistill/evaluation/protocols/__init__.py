"""Protocols: one file each; `build(setting) -> Recipe`, the values that the field has fixed for that setting."""

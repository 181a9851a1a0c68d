"""Prototypes of a class from its latents."""

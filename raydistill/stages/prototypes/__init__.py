"""Latents to prototypes: clusterings of every class, whole or in pieces, and what of them a method is given."""

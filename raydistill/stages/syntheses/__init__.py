"""Prototypes to images: plan, sample or pick or take in, assemble."""

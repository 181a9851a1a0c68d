"""Presets: one YAML file each; `quickstart/` holds the small VAE and generator that ship with the package."""

"""Training a VAE or a generator on Ray Train."""

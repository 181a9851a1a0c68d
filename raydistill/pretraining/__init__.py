"""Training of the small VAE and of the class-conditional generator: numerics only, Ray is in `stages.pretrain`."""

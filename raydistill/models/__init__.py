"""Pretrained networks behind two small protocols: VAE (pixels <-> latents) and Denoiser (noisy latent -> eps, x0)."""

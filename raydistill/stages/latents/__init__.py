"""Images to latents: encode, group by class, embed."""

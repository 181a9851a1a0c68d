"""What a distilled set is like beside the real one, in a space of features or latents: one metric, one file."""

"""The units of work, without Ray, in the order in which the data pass: latents, prototypes, syntheses, evaluation."""

"""Classifiers: one file each; `build(classes) -> nn.Module` with logits, an embedding, and its own preprocessing."""

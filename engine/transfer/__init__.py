"""Co-training and contrastive adaptation (docs/methods.md)."""

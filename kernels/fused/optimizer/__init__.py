"""Optimizers over many tensors in one launch."""

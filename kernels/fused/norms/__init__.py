"""Kernels of what normalises rows: LayerNorm after dropout and a residual, embeddings, and sums with their norm."""

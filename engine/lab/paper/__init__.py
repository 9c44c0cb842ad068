"""Finished runs as cells of the paper's tables."""

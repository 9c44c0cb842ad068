"""A finished model folder labels and scores text."""

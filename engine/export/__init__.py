"""Task models in forms that other programs open, compared with ours before they appear."""

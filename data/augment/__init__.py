"""Texts changed before they become batches: code switching, induced dictionaries."""

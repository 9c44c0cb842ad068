"""Texts changed or joined before they become batches: code switching, pairs of sentences."""

"""One optimizer step and the loop over them: batches in, weights out. Knows no recipe, stage or folder."""

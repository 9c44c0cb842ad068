"""A model over a token store: logits, votes, metrics, per-example scores."""

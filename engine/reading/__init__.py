"""A recipe's files as examples."""

"""Votes and a rule to a threshold and a decision: pure functions."""

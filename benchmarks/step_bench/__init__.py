"""Whole training and inference steps of this package and of its peers; `../step.py` is the command."""

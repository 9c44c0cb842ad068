"""The commands of `xlt-engine`, a file for each or for a close family: options, one call of the engine, output.

Imported by `cli.py` alone. Importing a command loads no torch: the engine is imported when the command runs.
"""

"""Names of the files in a run folder that more than one room knows (docs/summary-schema.md)."""

FINISHED = "stage.json"
"""Written last into a stage's folder: one without it is unfinished."""
STAMP = "fingerprint.json"
FAILED = "failed.json"
"""The stages of a run that failed while others went on; absent where none did."""
WEIGHTS = "model.safetensors"
TRUTH = "truth.json"

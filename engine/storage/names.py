"""Names of the files in a run folder that more than one room knows (docs/summary-schema.md)."""

FINISHED = "stage.json"
"""Written last into a stage's folder: one without it is unfinished."""
STAMP = "fingerprint.json"
SCORES, ITEMS, PREDICTED = OF_SCORING = "scores.json", "items.safetensors", "predicted.safetensors"
"""What scoring leaves beside a model: the scores, what they are of, and the class of each item of a test file."""
FAILED = "failed.json"
"""The stages of a run that failed while others went on; absent where none did."""
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""All weights, or what names the files that hold them, with their hashes."""
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
MODEL = ("config.json", "xlt.json", WEIGHTS, INDEX, *SHARDS, "tokenizer.json", "tokenizer_config.json", STAMP)
"""What a stage's model is read from."""
SHOWN = (SCORES, ITEMS, "trace.json", "decision.json", "picks.json")
"""What a summary and a report show of a stage."""
TRUTH = "truth.json"
SOFT_LABELS = "soft_labels.safetensors"
"""What a soft stage learns of the target."""

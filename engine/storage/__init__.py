"""Files that are whole or absent: atomic writes, checkpoints, the run folder. Knows no model, recipe or stage."""

"""Files that are whole or absent: atomic writes, the run folder, fault points. Knows no model, recipe or stage."""

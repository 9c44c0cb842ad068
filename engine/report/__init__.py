"""The page of a run, made from the JSON that it has left on disk: tables, figures, summary."""

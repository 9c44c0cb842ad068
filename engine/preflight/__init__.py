"""What is looked at before a run: files, recipes, encoders, cost."""

"""What a run has found out, as JSON: its stages, their scores over seeds and targets, and the model to take."""

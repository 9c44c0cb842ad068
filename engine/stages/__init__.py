"""What each kind of stage reads, trains and notes, and what the stages of a run share."""

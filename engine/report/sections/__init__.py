"""The parts of the page, a file each: HTML from what a run has left on disk."""

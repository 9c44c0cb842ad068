"""The laboratory: what runs say about the method, with and without target labels."""

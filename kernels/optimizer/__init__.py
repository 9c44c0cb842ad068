"""What an optimizer does to many tensors at once."""

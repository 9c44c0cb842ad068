"""The demo's made world."""

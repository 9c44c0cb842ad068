"""Models for use elsewhere (docs/methods.md)."""

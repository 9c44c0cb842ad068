"""TOML to `RunConfig`, with every problem at once."""

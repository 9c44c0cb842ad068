"""The truth world: a made world in which everything that a run cannot know is known (docs/truth-world.md)."""

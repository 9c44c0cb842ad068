"""Words and texts to token ids; vocabularies."""

"""Words, texts and prompts to token ids; vocabularies."""

"""The corpus builder (docs/corpus.md): `build_corpus` reads dumps or text and keeps sentences with known entities."""

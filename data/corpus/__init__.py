"""The parts of the entity-matched corpus builder."""

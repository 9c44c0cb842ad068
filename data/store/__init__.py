"""Token stores: memory-mapped ids and offsets."""

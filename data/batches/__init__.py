"""Token stores to packed batches: samplers, masking, windows."""

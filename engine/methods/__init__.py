"""Methods beside the core: co-training, contrastive adaptation, induced dictionaries."""

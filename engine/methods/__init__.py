"""Methods beside the core: co-training, contrastive adaptation, cloze prompts, induced dictionaries."""

"""Images in, uint8 batches out: sources, host augmentation and the input pipeline."""

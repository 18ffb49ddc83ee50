"""A run: the training loop of both phases, its state, its cache, how it is resumed and what it records."""

"""Types, names and encodings that the trainer and the workers exchange."""

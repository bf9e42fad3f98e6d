"""What the trainer and the workers exchange."""

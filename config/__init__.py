"""What a user writes in one configuration file."""

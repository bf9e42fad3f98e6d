"""Judges that compare the rollouts of a group: by one list, or by pairs."""

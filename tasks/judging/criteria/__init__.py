"""Judges that give a verdict on each criterion: requests, replies and scores; pure."""

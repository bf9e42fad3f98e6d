"""A backend on this machine: embedded Redis and worker processes."""

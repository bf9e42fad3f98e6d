"""The worker process: its context, message handling, signals and logs."""

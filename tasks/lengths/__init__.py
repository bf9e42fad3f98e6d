"""Length, verbosity and repetition shaping: one pure function per method."""

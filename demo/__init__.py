"""The demonstration: sample rollouts and a scriptable judge server that needs no model."""

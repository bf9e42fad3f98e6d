"""Sample rollouts and a scriptable judge server without a model."""

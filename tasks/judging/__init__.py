"""Scoring rollouts with LLM judges: pure decisions in small modules, I/O at the edge."""

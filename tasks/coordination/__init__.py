"""Limits, budget, reply cache and single flight, shared by all workers through Redis."""

"""Hedging: a second request for calls that take unusually long."""

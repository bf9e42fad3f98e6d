"""Calls to a judge endpoint over HTTP."""

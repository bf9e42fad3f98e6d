"""Declarations of the length methods: parameters, inputs, sources."""

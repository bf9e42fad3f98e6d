"""Composes rewards from judge scores and length terms."""

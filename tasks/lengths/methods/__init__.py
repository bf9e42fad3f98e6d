"""The length formulas, one module per family."""

"""Solvers of the relaxed program, one a file, and the table of methods made of them."""

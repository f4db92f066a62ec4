"""Attacks: they propose counterexamples, which are always replayed."""

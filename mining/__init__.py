"""Inferential Preference Mining: a model's own errors become pairs (paper, section 4)."""

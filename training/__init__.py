"""Recipes and trainings: LLaMA-Factory does the work, this package prepares and guards it."""

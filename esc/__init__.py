"""The vocabulary every package of the kit shares; it imports none of its siblings."""

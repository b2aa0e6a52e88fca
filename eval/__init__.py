"""What the trained systems do, and how well: predictions first. Always ``from eval.x import y``."""

"""How fast, side by side: run it with ``python -m bench``."""

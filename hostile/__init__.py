"""What the server stands: attacks, faults and a soak against a real daemon; ``python -m hostile --help``."""

"""What the server survives: attacks, faults and a soak test against a real daemon; see ``python -m hostile --help``."""

"""Engines and their faults."""

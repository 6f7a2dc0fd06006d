"""The public testing room."""

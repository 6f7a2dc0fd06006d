"""The tests mirror the package; tests/live runs the real daemon, tests/browser a real browser."""

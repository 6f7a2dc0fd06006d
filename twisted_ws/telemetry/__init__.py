"""What the server tells of itself while it runs: counts, the events and records of its log, and traces."""

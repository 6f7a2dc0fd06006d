"""Where the daemon listens: addresses, and their ports from start to stop."""

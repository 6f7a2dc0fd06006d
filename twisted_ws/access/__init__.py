"""Who may: credentials for the broadcast site."""

"""The contact with a server of Redis or Valkey: found, greeted, let through its gate, asked, and found again."""

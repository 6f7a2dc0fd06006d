"""Who may publish, and what back ends did: API keys with scopes, passwords, the audit log."""

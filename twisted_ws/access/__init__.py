"""Who may: who a request or connection is, what its rules and tokens grant, and who may publish."""

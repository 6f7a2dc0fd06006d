"""JSON Web Tokens: who signed them, and what they say."""

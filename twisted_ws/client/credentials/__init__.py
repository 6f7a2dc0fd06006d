"""What a client proves by who it is: tokens from an authorization server, and tokens that it signs itself."""

"""TLS: certificates, contexts and transports."""

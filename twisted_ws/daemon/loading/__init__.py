"""What settings name: services, engines and authenticators, from a name to the object."""

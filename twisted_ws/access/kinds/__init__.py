"""The kinds of authenticators that come with the package, but for those that ask another server."""

"""The services that come with the package."""

"""A supervisor that takes the place of another one, of an older version or with other settings, while the workers go on."""

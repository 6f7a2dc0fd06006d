"""What the commands have in common that talk to the broadcast site of a running server."""

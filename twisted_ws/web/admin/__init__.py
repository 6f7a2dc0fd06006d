"""The admin page of the broadcast site: its files, and who is logged in."""

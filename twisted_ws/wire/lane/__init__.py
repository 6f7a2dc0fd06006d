"""The fast lane: sockets polled in a group, read as frames, and written to directly; listening ports for it."""

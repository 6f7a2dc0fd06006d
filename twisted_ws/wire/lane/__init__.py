"""The fast lane: sockets polled in a group, read into frames and written through; listening ports for it."""

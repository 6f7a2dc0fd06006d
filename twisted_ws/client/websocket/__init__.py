"""One connection of a client, from the 101 on: Autobahn, frames, pings, the close."""

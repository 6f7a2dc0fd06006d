"""The engine of one machine: a hub in the supervisor holds the channels, and its workers ask it over links."""

"""What all connections share of the reactor: deadlines, the work of a turn, bytes that wait, places, transports."""

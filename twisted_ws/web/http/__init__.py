"""HTTP itself: connections, requests, bodies and answers."""

"""The terminal of ``twisted-ws connect``: what is shown, and what is typed."""

"""What a server has done and how it is, for whoever watches it; the numbers themselves are counted in `twisted_ws.counts`."""

"""Whoever knows is asked over HTTP: the user's back end, an authorization server, whoever publishes keys."""

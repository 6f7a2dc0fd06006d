"""From an event to a handler call, and from "publish" to every caller."""

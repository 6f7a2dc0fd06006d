"""The HTTP edges: the broadcast site, the health pages and the pages that a person sees."""

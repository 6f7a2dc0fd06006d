"""How many connections and messages some machines take: a model whose constants are measured, and the measurements."""

"""Open connections that move from one process to another: the stream between the two, and what each of them does."""

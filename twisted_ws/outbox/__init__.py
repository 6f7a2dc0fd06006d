"""The outbox: what an application writes to a table of PostgreSQL, in its own transactions, is published from there.

``python -m twisted_ws.outbox`` prints the SQL that makes the table.
"""

"""Print the SQL that makes the table: ``python -m twisted_ws.outbox | psql``."""

from importlib.resources import files

if __name__ == "__main__":
    print((files("twisted_ws.outbox") / "table.sql").read_text(encoding="utf-8"), end="")

"""The engine that works with Redis or Valkey, so that any number of servers on any number of machines share their channels."""

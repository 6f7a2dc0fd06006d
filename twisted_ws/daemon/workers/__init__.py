"""Several processes behind the same ports: the supervisor that starts and watches workers, and the worker."""

"""The daemon: options, settings, listeners, drain, reload and logs."""

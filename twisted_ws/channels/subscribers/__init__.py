"""The clients of channels, whatever their transport: what waits for one, and how it is written."""

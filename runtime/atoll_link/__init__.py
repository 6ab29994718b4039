"""The runtime's only package with I/O: MQTT sessions, retained topics, settings, logs, exit codes."""

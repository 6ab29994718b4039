"""The lane: one thread that owns readings, from the socket to the acknowledgement."""

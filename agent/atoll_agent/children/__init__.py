"""Programs that the supervisor runs as short-lived children: JSON request in, JSON lines out."""

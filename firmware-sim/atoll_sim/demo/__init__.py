"""The whole loop in one terminal: a broker, devices, an agent and a trainer, a process each."""

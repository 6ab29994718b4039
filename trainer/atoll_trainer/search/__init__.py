"""How the best small model of a task is found: tried, made int8, judged as devices run it, chosen."""

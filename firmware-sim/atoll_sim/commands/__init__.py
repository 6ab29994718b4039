"""One module per command of ``atoll-sim``: ``configure(parser)`` and ``run(arguments)``."""

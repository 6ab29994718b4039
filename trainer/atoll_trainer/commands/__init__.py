"""One module per command of ``atoll-trainer``: ``configure(parser)`` and ``run(arguments)``."""

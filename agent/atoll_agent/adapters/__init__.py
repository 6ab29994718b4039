"""One module per outside thing; the only place in the agent where its library is imported."""

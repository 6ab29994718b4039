"""What a model is worth, for people: one self-contained page, a model card, the same as JSON."""

"""From a bundle to predictions. The only package that imports an inference runtime."""

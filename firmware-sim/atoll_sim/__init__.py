"""Simulated devices that publish readings and labels, replay of recorded ones, and the demo."""

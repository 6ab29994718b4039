"""The closed loop: learn anew when the world has changed, try it on a few devices, then on all."""

"""From readings to feature matrices: windows per device, normalisation. Pure numpy."""

"""Whether what a champion sees and errs is still what it learnt. Pure: no clock, no network."""

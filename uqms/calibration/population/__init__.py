"""Many subjects with one simulator: what they share, how they differ, and what is inferred about each."""

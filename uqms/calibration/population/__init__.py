"""Many subjects with one simulator: what they share, how they differ, and what the data say of each."""

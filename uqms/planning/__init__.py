"""What to measure next and what to run next: the value of a measurement and of a run, and waves of history matching."""

__all__: list[str] = []

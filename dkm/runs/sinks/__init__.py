"""Where a run is logged to: one module per sink, and ``base.py`` with what they have in common."""

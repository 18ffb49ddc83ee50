"""The report of a run or of several: one HTML file that needs nothing else and asks no other host for anything."""

"""Data sets with a name, which are generated or downloaded."""

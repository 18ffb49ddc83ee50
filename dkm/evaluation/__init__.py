"""Scores, passes over the data, exemplars, assignments and figures. Labels are used here only, for scores."""

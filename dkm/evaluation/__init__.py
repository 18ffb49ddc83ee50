"""Scores, passes over the data, exemplars, assignments and figures. Labels come in here, and only scores come out."""

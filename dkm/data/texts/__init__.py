"""Texts: as TF-IDF, or through a sentence encoder."""

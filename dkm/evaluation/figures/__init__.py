"""Figures: of clusters, of images, of a training run, of several runs."""

"""Clustering of points: losses, centroids, nearest centroids, k-means and the graph of neighbors."""

"""Data sets: rows and images from files or libraries, scaled, augmented and put into batches."""

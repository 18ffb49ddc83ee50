"""Autoencoders, their L2 regularization, and the saved model of a finished run."""

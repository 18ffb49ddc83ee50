"""The clustering losses, one module per method."""

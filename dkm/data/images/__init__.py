"""Images: in folders, in lists, in Parquet, and through pretrained encoders."""

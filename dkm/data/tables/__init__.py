"""Tables: text, Parquet, Feather."""

"""Networks and their dimensions: no files, no devices."""

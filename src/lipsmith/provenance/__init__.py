"""What was done to a file, and how the file says so."""

"""Generated face → frame."""

"""Generated face → frame: masks, colour, paste."""

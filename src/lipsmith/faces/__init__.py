"""Frames → tracks → crops."""

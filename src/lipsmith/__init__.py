"""Lipsmith: lip-sync any talking-face video to any speech."""

__version__ = "0.1.0"

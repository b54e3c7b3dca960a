"""Waveform → what a network hears."""

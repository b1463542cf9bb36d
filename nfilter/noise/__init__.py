"""Noise at known places: wrong labels, and filler inside responses."""

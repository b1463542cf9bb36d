"""Inject noise with known truth: wrong labels, and noise inside responses."""

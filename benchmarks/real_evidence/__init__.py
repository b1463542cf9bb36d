"""Cleaning of published noisy data with a real model: every method and its controls, from one command."""

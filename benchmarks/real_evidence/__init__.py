"""What cleaning does to published noisy data with a real model: every method beside its controls, from one command."""

"""What the token methods do to noise inside responses of real texts, with a real model: every method beside its controls."""

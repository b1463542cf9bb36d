"""Token methods on noise inside responses of real texts, with a real model: every method and its controls."""

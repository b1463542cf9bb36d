"""What the token methods do to planted token noise on the embedded task world: both error rates, and what training gains."""

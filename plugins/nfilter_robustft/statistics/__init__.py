"""Statistics of votes and noisy labels: no stage, no model call."""

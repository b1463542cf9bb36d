"""Figures of a run: judged against the known truth, by arm and over seeds."""

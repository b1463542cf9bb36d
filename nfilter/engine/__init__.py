"""Run a recipe into a run directory: source, stages, arms and figures."""

"""From a recipe to a run directory: the loop, the invariants, the arms and their figures."""

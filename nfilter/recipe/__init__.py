"""A recipe from YAML to checked settings, and what can be known without running it."""

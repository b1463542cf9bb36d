"""Makes the pages of the site that are not written by hand; `make docs` uses it through mkdocs."""

"""``entp.purge``: the rules on rows and responses, and the search for duplicates."""

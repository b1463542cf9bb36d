"""``entp.rate`` and ``entp.curate``: ratings, and the correction of their errors."""

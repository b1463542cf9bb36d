"""Reports of a run for people: explain, compare, audit, the closing screen, report.html."""

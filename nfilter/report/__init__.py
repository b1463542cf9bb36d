"""What people read of a run: one row's story, runs side by side, the closing summary, the audit, the page."""

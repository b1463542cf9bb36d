"""Which plugins are installed, what they register, and by which code."""

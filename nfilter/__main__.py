"""``python -m nfilter``."""

from nfilter.cli import script

script()

"""RobustFT's tables on the embedded world: ``python -m benchmarks.evidence --help``."""

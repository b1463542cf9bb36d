"""Other tools that send many requests to a model, each in its own environment, for comparison with nfilter.

``python -m benchmarks.peers setup DIR`` makes the environments: DIR/curator, DIR/inspect and DIR/distilabel. The client of
a tool is ``ask_TOOL.py``; the versions that it runs with are in ``requirements-TOOL.txt``.
"""

"""Other tools that ask a model many questions, each in an environment of its own, to be measured beside ours.

``python -m benchmarks.peers setup DIR`` makes the environments: DIR/curator, DIR/inspect and DIR/distilabel. The client of
a tool is ``ask_TOOL.py``; the versions that it runs with are in ``requirements-TOOL.txt``.
"""

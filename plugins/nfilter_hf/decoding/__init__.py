"""Generating answers: batches, the key-value cache, and the choice of the next token."""

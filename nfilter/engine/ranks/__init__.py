"""One run in several processes, ranks, that share a file system and no service: each takes its chunks of every stage."""

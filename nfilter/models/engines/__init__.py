"""Models behind an inference engine that takes token ids: what is equal for every such engine."""

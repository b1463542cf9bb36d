"""GGUF files: header, configuration, tokenizer and weights, and corrections of what transformers ignores."""

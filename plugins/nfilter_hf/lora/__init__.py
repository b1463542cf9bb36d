"""LoRA training: settings, choice, data, loss, step, loop, checkpoint, adapter; ``trainer`` combines them."""

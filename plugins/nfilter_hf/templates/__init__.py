"""Chat templates: conversations and requests as text and token ids, and the places of the answers in them."""

"""The language that all rooms speak: items, events, prompts, callers, and the protocols between rooms."""

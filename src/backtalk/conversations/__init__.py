"""Conversations and the items they are made of: what was said, in order, and what it followed on."""

"""Typed resources: a Pydantic model of the user's as a small REST collection."""

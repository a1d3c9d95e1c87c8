"""Uploaded files: what they are in the database, their bytes on the disk."""

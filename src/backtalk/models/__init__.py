"""Models: the built-in reader, the model servers that are configured or found, and models that users bring."""

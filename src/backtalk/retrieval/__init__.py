"""Vector stores: files are parsed, cut into chunks, embedded, and found again."""

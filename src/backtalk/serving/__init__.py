"""What a client may ask of models without a turn: the list of them, and embeddings."""

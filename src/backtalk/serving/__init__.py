"""What a client may ask of models without a turn: the list of them, embeddings, reranking and moderations."""

"""One turn of talk: the prompt is put together, the model asked, its tools run, and every event logged before it is shown."""

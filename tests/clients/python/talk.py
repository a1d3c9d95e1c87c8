"""Where the server is, and what it is asked."""

import os

BASE_URL = os.environ["BASE_URL"]
MODEL = "scripted"
EMBEDDINGS = "backtalk/static"
KEY = "none"
PLACES = "What's the weather like in Paris and San Francisco?"


def weather(location: str) -> str:
    """Tells the weather at a place.

    Args:
        location: A city.
    """
    return f"It is sunny in {location}."

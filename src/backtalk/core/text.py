"""Small facts about text that every floor needs."""


def has_lone_surrogate(text: str) -> bool:
    """Whether `text` cannot be written as UTF-8 (JSON can smuggle in half of a surrogate pair)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def estimate_tokens(text: str) -> int:
    """Roughly how many tokens a model makes of `text`: four bytes each, and no fewer than the CJK characters in it.

    An estimate for budgets. What is billed comes from the model server's own count.
    """
    data = text.encode("utf-8", "replace")
    wide = (len(data) - len(text)) // 2
    return max(1, (len(data) - 3 * wide) // 4 + wide) if data else 0

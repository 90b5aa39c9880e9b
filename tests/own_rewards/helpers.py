"""What a user's file imports beside it."""


def count(text: str) -> int:
    """Words."""
    return len(text.split())

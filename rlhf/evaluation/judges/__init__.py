"""Judges: whoever compares two responses to one prompt."""

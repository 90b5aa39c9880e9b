"""Tests; a package so that what they share is imported as `tests.<name>` and nothing here shadows the project."""

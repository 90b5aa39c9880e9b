"""Files of a user."""

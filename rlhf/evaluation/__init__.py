"""Evaluation: responses to held-out prompts, judges that compare them, and win rates with their uncertainty."""

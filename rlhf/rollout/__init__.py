"""From prompts to responses with their log-probabilities."""

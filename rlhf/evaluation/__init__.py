"""Evaluation: responses to held-out prompts, judges that compare them, win rates with intervals.

README.md of this folder describes what is judged and how, and how to add a judge.
"""

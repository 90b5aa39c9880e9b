"""The shapes of rows that people publish: which columns show a shape, and what record it makes.

Records are as the row has them: cleaned and checked they are in `rlhf.data.parse`.
"""

"""The paper's experiments as data: arms are changes of settings, studies are arms side by side.

A study holds its arms to what the paper found.
"""

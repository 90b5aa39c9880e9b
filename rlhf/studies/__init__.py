"""The paper's experiments as data: arms are changes of settings, studies are arms side by side with the paper's findings."""

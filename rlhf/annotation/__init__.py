"""People as judges: a local page for blind pairwise comparison, and the store of their votes."""

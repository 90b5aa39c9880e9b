"""People as judges: a local page for blind pairwise comparison, and the votes that it keeps."""

"""The report: from the files of a workspace to figures to one self-contained HTML page."""

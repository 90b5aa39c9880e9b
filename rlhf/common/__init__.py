"""What every layer shares: errors, files, seeds, progress and metrics. No machine learning here."""

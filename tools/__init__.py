"""What only those who work on Peakhold run."""

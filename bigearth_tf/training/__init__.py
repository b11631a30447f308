"""Training runs, scores over whole splits, and what they leave behind."""

"""Is the candidate better than the incumbent? Cases → paired scores → a difference with its confidence."""

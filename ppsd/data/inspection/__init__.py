"""Looking at data before training does: what can be used, what cannot and why, and what it looks like."""

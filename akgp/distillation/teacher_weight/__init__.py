"""The teacher's weight: for each sample, and for the whole set from answers or from branches."""

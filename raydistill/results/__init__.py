"""What a run's numbers are, and how the data of its page are gathered."""

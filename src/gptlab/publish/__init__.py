"""A model for others: its card, where it comes from, and the way to the hub."""

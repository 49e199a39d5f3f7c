"""A model on the hub: its card, its origin, and the push."""

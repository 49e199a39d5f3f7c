"""Publishing a model: its card, its origin, and the push to the hub."""

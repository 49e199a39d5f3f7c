"""Pages for people: runs side by side, prepared data."""

"""Looking into prepared data."""

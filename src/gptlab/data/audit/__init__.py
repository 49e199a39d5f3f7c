"""Prepared data looked into: its documents and tokens, and test items among them."""

"""Inspects prepared data: its documents and tokens, and test items among them."""

"""Text to shards, in as many processes as there are, again and again until it is done."""

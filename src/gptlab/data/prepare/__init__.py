"""Text to shards in parallel, resumable at any time."""

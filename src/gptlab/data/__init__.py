"""From text to batches: sources, tokenizer, shards, prepare, batches."""

"""What a training step is made of, and how near it is to what the machine can do."""

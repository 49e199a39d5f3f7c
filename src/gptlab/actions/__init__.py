"""What the commands do, a file each; their flags are in commands/."""

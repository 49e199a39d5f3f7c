"""Work of a command that brings several packages together; its flags are in commands/."""

"""Where text comes from: files, folders, the hub, Python's own documentation."""

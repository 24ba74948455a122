"""Tasks: pieces of work that write into a shared folder, each in a process of its own, here or elsewhere."""

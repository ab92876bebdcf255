"""Side by side with the peers: the same work, the same machine, the same file system, in rotated order. See README.md."""

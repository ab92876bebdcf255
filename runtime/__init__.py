"""The engine: images, layers, containers."""

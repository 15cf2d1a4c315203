"""Lava processes of our own; alone in a folder, as Lava's compiler executes every neighbouring file."""

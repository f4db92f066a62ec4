"""The relaxed convex program."""

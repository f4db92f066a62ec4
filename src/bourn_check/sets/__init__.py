"""Input sets beyond boxes, one kind a file: what a row is at least on them, and how a question states them."""

"""Studies: one question asked of many networks, images and radii, its answers kept in a store."""

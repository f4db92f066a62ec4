"""Where networks and questions come from."""

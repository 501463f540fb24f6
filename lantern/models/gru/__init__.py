"""GRU backbone: the plain baseline."""

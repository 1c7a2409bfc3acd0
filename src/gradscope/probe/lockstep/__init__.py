"""Several copies of a layer trained at once: their steps are taken together, so that each operation serves all."""

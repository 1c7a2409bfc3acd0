"""A Monitor inside somebody else's training loop: one thin file per framework."""

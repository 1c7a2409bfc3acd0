"""Work done in processes of its own: what happens to one of them happens to no other."""

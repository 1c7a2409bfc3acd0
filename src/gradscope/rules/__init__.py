"""Rules: one file per finding. They read records only, and say what is wrong, where, and what to try."""

"""Rules: one file per hundred of codes. They read records only, and say what is wrong, where, and what to try."""

"""Rules of training: what a whole trajectory shows, and no single report can."""

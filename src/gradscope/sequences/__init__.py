"""Input sequences and losses: synthetic, text and files become one `Batch`; a name becomes one `Loss`."""

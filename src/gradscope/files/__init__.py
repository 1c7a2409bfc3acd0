"""Reading files that somebody else wrote: looked at before they are opened, and never run."""

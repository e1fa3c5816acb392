"""What happened: the record of who did what."""

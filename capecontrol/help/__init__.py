"""The help pages, which are also the Guide's source."""

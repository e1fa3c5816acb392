"""Running it: health, the doctor, and what `make run` supervises."""

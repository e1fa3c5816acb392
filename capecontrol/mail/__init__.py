"""Outgoing mail: ordered with the transaction it belongs to, handed over by a job."""

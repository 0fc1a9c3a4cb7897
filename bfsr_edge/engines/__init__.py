"""Engines: a network made ready for one kind of device, and a look into what was made."""

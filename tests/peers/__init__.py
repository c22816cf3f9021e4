"""Servers that speak like OpenAI and that nobody of this project wrote. `make peers` installs them; else: skipped."""

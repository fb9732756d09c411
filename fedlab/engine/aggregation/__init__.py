"""The round loop, and what strategies make of replies."""

"""Configs: composed, filled from signatures, checked, documented; old names are told the new ones."""

"""Synthetic texts: asked for, parsed, filtered, judged, voted on."""

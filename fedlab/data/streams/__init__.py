"""Data that come in steps: what comes when, who meets it, who is there."""

"""What a federation can prove of itself, and what an attacker could learn from it."""

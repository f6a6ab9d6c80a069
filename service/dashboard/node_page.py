"""One merge: how its search goes, what it found, what that looks like."""

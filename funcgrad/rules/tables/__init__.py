"""Rules that change what happens on the way back: what ``fg.rules`` offers beside the default."""

"""Looking inside: rules as text."""

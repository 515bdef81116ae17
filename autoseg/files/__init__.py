"""Files as such, whatever they hold: damage to them, their identity, temporary ones."""

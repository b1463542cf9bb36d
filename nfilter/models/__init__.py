"""What stages reach models through: every call is journaled, held to hosts and paced."""

"""A config and its dataset → a trained run: masking, losses, optimizer, the jitted step."""

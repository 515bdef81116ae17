"""The parts of which networks of many families are made, for images and volumes."""

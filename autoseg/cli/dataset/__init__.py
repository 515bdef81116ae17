"""Commands about datasets before they are planned: convert, init, check."""

"""How work is spread over processes, and how it is interrupted."""

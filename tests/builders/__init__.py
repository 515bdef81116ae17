"""Builders of test data, one module a subject; every fake and every example of a kind of data stands here once."""

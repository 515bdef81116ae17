"""Corrects label maps by clicks."""

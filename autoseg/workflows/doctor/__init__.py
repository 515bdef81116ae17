"""Examination of a machine before work is lost on it: `autoseg doctor`."""

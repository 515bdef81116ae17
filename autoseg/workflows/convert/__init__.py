"""`autoseg convert`: public datasets in the folders of autoseg."""

"""The commands of ``suture``, one module each; what takes long to import is imported where it is used."""

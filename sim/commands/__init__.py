"""The commands of ``suture``; what takes long to import is imported where it is used."""

"""`dsprune status`: where runs stand."""

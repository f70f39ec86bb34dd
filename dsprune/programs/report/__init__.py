"""`dsprune report`: what runs did, as one page and as tables."""

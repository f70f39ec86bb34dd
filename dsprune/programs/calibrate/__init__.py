"""`dsprune calibrate`: the temperature to distil with, chosen from a teacher's store."""

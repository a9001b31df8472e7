"""Dense heads: plain modules from a pyramid of four maps to what a task needs (`mobileclip.dense.config.HEADS`)."""

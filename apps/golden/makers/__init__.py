"""One module for each golden file; `make.py` runs them."""

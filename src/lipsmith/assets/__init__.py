"""Files of the demo: a short synthetic speech. `README.md` beside this file says how it was made."""

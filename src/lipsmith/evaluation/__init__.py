"""How well lips and speech agree, measured by networks that were in no loss."""

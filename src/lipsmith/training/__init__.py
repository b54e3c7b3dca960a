"""Recipes, losses and loops."""

"""Rows of a recipe's variants, made and compared."""

"""A run for those who track runs elsewhere: tables, event files, and one run beside another."""

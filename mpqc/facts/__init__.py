"""Facts that several rooms need, one table an idea. Imports nothing but values and errors."""

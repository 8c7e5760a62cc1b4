"""Facts that several rooms need, one table an idea."""

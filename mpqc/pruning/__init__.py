"""Whole channels that go before training, so that types of 2 bits and more fit the budgets."""

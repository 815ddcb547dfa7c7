"""Training rounds as a service: select, propose, train, evaluate, decide, promote, report."""

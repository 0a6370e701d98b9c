"""Step 9: what is done to the network, and the plan that says it."""

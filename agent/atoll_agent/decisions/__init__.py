"""What the agent makes of predictions: rules, and which predictions are worth telling. Pure."""

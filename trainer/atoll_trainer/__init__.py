"""The trainer: records, trains, optimises, evaluates, bundles and publishes models."""

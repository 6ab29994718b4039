"""The edge agent: answers readings with predictions and takes over new releases safely."""

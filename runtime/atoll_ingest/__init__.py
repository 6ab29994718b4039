"""From MQTT topics and payloads to readings: one decoder per dialect, pure, behind one port."""

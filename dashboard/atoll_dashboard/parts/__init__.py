"""What pages are made of: tables, tiles, charts. All text from MQTT is text to the browser, never markup."""

"""The dashboard: a web page that shows a fleet as its topics tell, without a database."""

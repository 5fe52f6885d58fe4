"""What ``taut`` itself offers, one file per task; import the names from ``taut``."""

"""From a run to its record, tables and pictures. Nothing here needs torch."""

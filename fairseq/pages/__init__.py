"""Pages: one HTML file each, with findings, tables and plots, that opens without a network."""

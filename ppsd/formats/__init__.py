"""On-disk formats, reader and writer side by side. Nothing here knows paddle."""

"""The page that shows and steers everything."""

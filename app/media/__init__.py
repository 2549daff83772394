"""What files are: recognized and checked by their content, without a decoder."""

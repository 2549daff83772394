"""What a run leaves: fetched, checked, stored; previews and thumbnails."""

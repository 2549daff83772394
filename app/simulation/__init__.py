"""The queue in virtual time: thousands of backends and a million jobs, by the product's own choice and fair tags."""

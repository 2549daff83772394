"""What a worker does all the time: leases, heartbeats, operators' requests, reconciling."""

//! From an admitted frame to its destinations: FDB, VLANs and the reachability table.

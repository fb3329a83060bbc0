//! Wiring: the order of start and stop.

//! From text to a validated model of the switch.

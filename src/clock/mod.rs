//! Time as an argument: the switch reads the clock in one place and hands the value down.

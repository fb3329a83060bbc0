//! Guest mappings, and the only unsafe code: map what a front-end gave, copy in, out and across, survive its loss.

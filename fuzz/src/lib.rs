//! What the targets share: a guest's memory that can be laid out anew for each input, and frames that
//! are nearly right, since random bytes hardly ever get past the first header.

pub mod frames;
pub mod guest;

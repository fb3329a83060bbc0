//! What the targets share: a guest's memory that is laid out anew for each input, a front-end that says
//! anything, and frames that are nearly right, since random bytes hardly ever get past the first header.

pub mod frames;
pub mod front_end;
pub mod guest;
pub mod victim;

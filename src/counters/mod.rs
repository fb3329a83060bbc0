//! What every port counts, and the closed set of reasons for which a frame is dropped.

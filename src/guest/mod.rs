//! The other side in software: a front-end with driver-side rings; modern, legacy or hostile.

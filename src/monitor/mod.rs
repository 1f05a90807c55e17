//! What keeps processes running: the policy of one process, and the lines it writes.

pub(crate) mod lines;
pub mod restart;

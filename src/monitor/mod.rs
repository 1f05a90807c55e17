//! What keeps processes running: the policy of one process, and the lines it writes.

pub(crate) mod lines;
pub(crate) mod restart;

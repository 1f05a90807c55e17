//! Run, watch and restart child processes on one thread, without a runtime.

mod monitor;
mod sys;

pub use monitor::lines::Escaped;

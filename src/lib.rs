//! Run, watch and restart child processes on one thread, without a runtime.

mod monitor;
mod sys;

pub use monitor::lines::Escaped;
pub use monitor::restart::{
    Action, Input, Leader, Lifecycle, Next, Policy, PolicyError, Restart, State,
};

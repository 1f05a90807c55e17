//! Run, watch and restart child processes on one thread, without a runtime.

mod reactor;
mod slab;

pub use reactor::timers::TimerId;

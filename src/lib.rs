//! Run, watch and restart child processes on one thread, without a runtime.
